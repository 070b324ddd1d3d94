"""PCA: "Prompt-Based Cross-Modal Feature Alignment for Weakly Supervised IFER", IEEE Signal Processing Letters 2025.

Written from the letter, which has no public code; MaPLe (muzairkhattak/multimodal-prompt-learning) and PDA
(BaiShuanghao/Prompt-based-Distribution-Alignment) are the evidence for what it leaves open: settings choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from fercore.plugin import Settings
from fercore_pca.method import ClipMethod
from fercore_pca.presets import presets_of
from fercore_pca.settings import PcaSettings


class PcaIfer(ClipMethod):
    """Prompts in both towers of a frozen CLIP, and images aligned with the feature banks of both domains."""

    paper = "PCA, IEEE SPL 2025"
    Settings: ClassVar[type[Settings]] = PcaSettings
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of("pca_ifer")
    settings: PcaSettings


class Pca(PcaIfer):
    """`pca_ifer` under a short name: prompts in a frozen CLIP, images aligned with two feature banks."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = presets_of("pca")

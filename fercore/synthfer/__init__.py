"""SynthFER: a deterministic generator of expressive faces driven by FACS action units.

The drawing code is compiled on first use, so that importing the package stays light.
"""

from __future__ import annotations

from fercore.synthfer.dataset import Sample, SynthFER
from fercore.synthfer.export import contact_sheet, write
from fercore.synthfer.names import AU_NAMES, STYLES

__all__ = ["AU_NAMES", "STYLES", "Sample", "SynthFER", "contact_sheet", "write"]

"""Action units beside images: files, SynthFER's own, a small network, installed detectors."""

from __future__ import annotations

from fercore.au.attach import add_units, asked_for, refuse_without
from fercore.au.files import AUFile, read_au_file
from fercore.au.network import AUNetwork, load_network, save_network
from fercore.au.providers import Detector, detect, find_detector
from fercore.au.table import CODES, SCORES, AUTable, canonical_name, from_scores

__all__ = [
    "CODES",
    "SCORES",
    "AUFile",
    "AUNetwork",
    "AUTable",
    "Detector",
    "add_units",
    "asked_for",
    "canonical_name",
    "detect",
    "find_detector",
    "from_scores",
    "load_network",
    "read_au_file",
    "refuse_without",
    "save_network",
]

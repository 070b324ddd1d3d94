"""Trained models of other programs as data: what network they are, what they make of images, their head and classes."""

from fercore.models.initial.foreign_model import ForeignModel, split_names
from fercore.models.initial.reading import read_foreign

__all__ = ["ForeignModel", "read_foreign", "split_names"]

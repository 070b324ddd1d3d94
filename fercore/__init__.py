"""fercore: adapt facial-expression classifiers across domains with pluggable methods."""

from __future__ import annotations

__version__ = "0.1.0"

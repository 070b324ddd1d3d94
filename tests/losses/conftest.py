from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def paper():
    """LA-CMFER's equations in literal NumPy."""
    spec = importlib.util.spec_from_file_location("la_cmfer_paper", Path(__file__).parent / "paper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def pocan():
    """POCAN's equations in literal NumPy."""
    spec = importlib.util.spec_from_file_location("pocan_paper", Path(__file__).parent / "pocan_paper.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

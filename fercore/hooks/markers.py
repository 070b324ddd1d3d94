"""The two pluggy markers, in a leaf module so that plugins import nothing else."""

from __future__ import annotations

import pluggy

PROJECT = "fercore"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

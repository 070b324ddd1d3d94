"""The op tests once more, in a library built with AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from fercore.ops import build

SCRIPT = Path(__file__).parents[2] / "csrc" / "sanitize"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_op_reads_or_writes_what_is_not_its_own():
    compiler = build.find_compiler("cpu")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = subprocess.run([compiler, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    if not Path(library.stdout.strip()).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer")
    done = subprocess.run([SCRIPT, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 50

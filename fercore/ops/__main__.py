"""`python -m fercore.ops [cpu] [cuda]` compiles the kernels, `python -m fercore.ops report` shows what is in use."""

from __future__ import annotations

import json
import sys

from fercore.ops import build, dispatch


def main(arguments: list[str]) -> int:
    """Build the libraries named (default: both) and print where they are; CUDA needs nvcc and no GPU."""
    if arguments == ["report"]:
        sys.stdout.write(json.dumps(dispatch.report(), indent=2) + "\n")
        return 0
    kinds: dict[str, build.Kind] = {"cpu": "cpu", "cuda": "cuda"}
    for name in arguments or kinds:
        kind = kinds.get(name)
        if kind is None:
            sys.stderr.write(f"unknown library {name!r}; known: {', '.join(kinds)}\n")
            return 2
        try:
            path = build.build(kind)
        except build.BuildError as error:
            sys.stderr.write(f"{kind}: {error}\n")
            return 1
        sys.stdout.write(f"{kind}: {path}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))

"""``python -m model.fused build``: prebuilt copies, for an image without a compiler."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from model.fused.build import PREBUILT, BuildError, build_prebuilt


def main() -> int:
    """Build a copy for each level of x86-64 and name the files."""
    parser = argparse.ArgumentParser(prog="python -m model.fused", description=__doc__)
    parser.add_argument("command", choices=["build"])
    parser.add_argument("--into", type=Path, default=PREBUILT, help="folder (default: %(default)s)")
    arguments = parser.parse_args()
    try:
        paths = build_prebuilt(arguments.into)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not paths:
        print("no copies: they are for x86-64; without a compiler, PyTorch runs")
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())

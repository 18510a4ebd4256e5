"""Print how fast tiffref is beside its peers: `python tests/benchmarks`.

Ratios, not times, are what to look at: "x2" means that the peer takes twice as long for the same
work. No test depends on any of this.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import warnings
from pathlib import Path

import reading
import remote
import scanning
from harness import compare, report


def main() -> None:
    """Run the comparisons that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "tiffref-bench"))
    parser.add_argument("--only", choices=["scanning", "reading", "remote"])
    parser.add_argument("--match", default="", help="only rows whose name holds this text")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument("--full", action="store_true", help="large sizes: minutes, gigabytes")
    args = parser.parse_args()
    logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
    for name, room in (("scanning", scanning), ("reading", reading)):
        if args.only in (None, name):
            for work in room.works(args.folder, args.full):
                if args.match in work.name:
                    report(work, compare(work, args.repeat))
    if args.only in (None, "remote"):
        remote.run(args.folder)


if __name__ == "__main__":
    main()

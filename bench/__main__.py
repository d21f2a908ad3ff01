"""Measure every figure against its limit.

Each figure is a ratio to a limit: the least that this machine must do for the same work, measured by the same program
at the same time. Machines differ and change their speed by the second; ratios stay. The table shows value and limit as
medians of the repeats, and of the ratio also the least and the most.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from bench import growth, report
from bench.figures import FIGURES
from bench.run import BenchError, run
from native.variants import ROOT

_EXAMPLES = """
examples:
  python -m bench                                     everything; a minute
  python -m bench --quick --only python_store         a first look at one figure
  python -m bench --only sweep_0 sweep_1 --repeats 15
  python -m bench --growth --only fork                one figure, and how costs grow with size
  python -m bench --readme                            put the last run's table into README.md, measure nothing

how to read it:
  A ratio whose least and most lie far apart was disturbed: look at the canary, and run it again on a quiet machine.
  "of seen" says how fast this machine's limit is beside the one on which the goals were set.
  A goal that is missed is no error: the exit status is 0. It is 1 if something could not be measured.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="KEY", help="these figures; --list shows their keys")
    parser.add_argument("--repeats", type=int, metavar="N", help="interleaved repeats (7; with --quick 2)")
    parser.add_argument("--quick", action="store_true", help="few and short repeats, for a first look")
    parser.add_argument(
        "--json",
        type=Path,
        default=ROOT / "build" / "bench.json",
        metavar="FILE",
        help="where the document goes, all samples included (build/bench.json)",
    )
    parser.add_argument("--growth", action="store_true", help="also how costs grow with size; minutes more")
    parser.add_argument("--list", action="store_true", help="show keys, goals and limits; measure nothing")
    parser.add_argument(
        "--readme",
        type=Path,
        nargs="?",
        const=ROOT / "README.md",
        metavar="FILE",
        help="rewrite the table in FILE (README.md) from the document in --json; measure nothing",
    )
    return parser


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _show_list() -> None:
    for figure in FIGURES:
        print(f"{figure.key:20} {figure.goal!s:6} {figure.what}\n{'':27} limit: {figure.limit}")


def _measure(options: argparse.Namespace, repeats: int) -> None:
    figures = [figure for figure in FIGURES if not options.only or figure.key in options.only]
    samples = run(figures, repeats, quick=options.quick, progress=_say)
    curves = growth.measure(_say) if options.growth else []
    found = report.document(figures, samples, repeats, quick=options.quick, growth=curves)
    print(report.text(found), flush=True)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    _say(f"{report.met(found)}; all samples are in {options.json}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line. 0: done; 1: something could not be measured or written; argparse exits with 2."""
    parser = _parser()
    options = parser.parse_args(arguments)
    keys = [figure.key for figure in FIGURES]
    if unknown := [key for key in options.only or () if key not in keys]:
        parser.error(f"no figure is named {', '.join(unknown)}; there are {', '.join(keys)}")
    repeats = options.repeats if options.repeats is not None else 2 if options.quick else 7
    if repeats < 1:
        parser.error("--repeats must be at least 1")
    try:
        if options.list:
            _show_list()
        elif options.readme:
            found: report.Document = json.loads(options.json.read_text(encoding="utf-8"))
            report.rewrite_readme(options.readme, found)
            _say(f"{options.readme} has the table of {found['time']}: {report.met(found)}")
        else:
            _measure(options, repeats)
    except (BenchError, OSError, ValueError) as error:
        _say(f"bench: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

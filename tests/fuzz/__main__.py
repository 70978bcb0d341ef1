"""Read many damaged inputs of every format, and write what became of them.

python -m fuzz                            all formats, 10,000 inputs each: ../results/fuzz/fuzz.json
python -m fuzz tar image --inputs 500     some of them; nothing is written
python -m fuzz tar --only 17              one input, in this process, with its traceback; its files are kept
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from coadvise.run.provenance import manifest
from coadvise.system.files import write_json
from coadvise.system.progress import Display

from .engine import SEED, Limits, available, input_of, read_inputs
from .report import Tally
from .targets import TARGETS

RESULT = Path(__file__).resolve().parents[2] / "results" / "fuzz" / "fuzz.json"


def main() -> int:
    options = _options()
    if not available():
        print("the limits of time and memory need Linux", file=sys.stderr)
        return 2
    if options.only is not None:
        return _only(options.targets[0], options.only, options.seed)
    names, limits, display = options.targets or list(TARGETS), Limits(), Display(every=10.0)
    start, tallies = time.monotonic(), {}
    for name in names:
        tallies[name] = _fuzz(name, options, limits, display)
        if options.output:
            content = {
                "seed": options.seed, "limits": dataclasses.asdict(limits),
                "targets": {name: one.content() for name, one in tallies.items()},
                "minutes": round((time.monotonic() - start) / 60, 1),
                "provenance": manifest(command=shlex.join(["python", "-m", "fuzz", *sys.argv[1:]])),
            }  # fmt: skip
            write_json(options.output, content)
    return int(any(one.failed for one in tallies.values()))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="FORMAT", help=", ".join(TARGETS))
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--readers", type=int, default=os.cpu_count() or 1, help="processes side by side")
    parser.add_argument("--only", type=int, metavar="NUMBER")
    parser.add_argument("--output", type=Path, help="result file; ../results/fuzz/fuzz.json when all formats are read")
    options = parser.parse_args()
    unknown = sorted(set(options.targets) - set(TARGETS))
    if unknown or (options.only is not None and len(options.targets) != 1):
        parser.error(f"there is no format {unknown[0]!r}" if unknown else "--only needs one format")
    if options.output is None and not options.targets:
        options.output = RESULT
    return options


def _fuzz(name: str, options: argparse.Namespace, limits: Limits, display: Display) -> Tally:
    tally = Tally()
    with display.bar(name, options.inputs) as bar:
        for outcome in read_inputs(name, TARGETS[name], range(options.inputs), limits, options.readers, options.seed):
            tally.add(outcome)
            bar.note(f"{tally.failed} failed")
            bar.advance()
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(tally.outcomes.items()))
    assert tally.slowest and tally.biggest
    display.say(
        f"{name}: {counts}; slowest {tally.slowest.seconds:.2f} s ({tally.slowest.number}), "
        f"largest {tally.biggest.memory / 1e6:.0f} MB ({tally.biggest.number}), {tally.seconds:.0f} s in all"
    )
    for line in tally.lines():
        display.say(f"  {line}")
    return tally


def _only(name: str, number: int, seed: int) -> int:
    """Read one input without limits, so that a debugger sees what it does."""
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    os.chdir(folder)
    target = TARGETS[name](folder)
    for file, content in input_of(name, target, number, seed).items():
        (folder / "input" / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / "input" / file).write_bytes(content)
        print(folder / "input" / file, f"{len(content):,} bytes", repr(content[:200]))
    target.read(folder / "input")
    print("read")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

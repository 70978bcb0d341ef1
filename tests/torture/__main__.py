"""Kill and disturb runs, and write what came of it.

python -m torture                        everything, 100 kills: ../results/torture/torture.json
python -m torture --kills 0.1            a tenth of the kills, and every condition; nothing is written
python -m torture --only "read-only"     the cases and conditions whose names hold this; nothing is written
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import shlex
import shutil
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

from coadvise.run.provenance import manifest
from coadvise.system.files import write_json
from coadvise.system.progress import Display

from .cases import kill_cases
from .conditions import UNPRIVILEGED, WITH_MOUNTS, prepare
from .kills import torment

RESULT = Path(__file__).resolve().parents[2] / "results" / "torture" / "torture.json"
_INSIDE = "COADVISE_TORTURE_MOUNTS"
SEED = 0


def main() -> int:
    options = _options()
    if os.geteuid() == 0 and shutil.which("unshare") and _INSIDE not in os.environ:
        # With a view of the file systems of its own, small disks can be mounted and nobody else sees them.
        os.environ[_INSIDE] = "1"
        words = ["unshare", "--mount", sys.executable, "-m", "torture", *sys.argv[1:]]
        os.execvp(words[0], words)
    display, begin = Display(every=10.0), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="torture-") as folder:
        killed = _kill(Path(folder, "kills"), options, display)
        conditions = _disturb(Path(folder, "conditions"), options, display)
    content = {
        "seed": options.seed, "kills": sum(one["kills"] for one in killed.values()),
        "most kills in one epoch": max((one["most in one epoch"] for one in killed.values()), default=0),
        "cases": killed, "conditions": conditions, "minutes": round((time.monotonic() - begin) / 60, 1),
        "provenance": manifest(command=shlex.join(["python", "-m", "torture", *sys.argv[1:]])),
    }  # fmt: skip
    failed = [name for part in (killed, conditions) for name, one in part.items() if one["failures"]]
    display.say(
        f"{content['kills']} kills, {len(conditions)} conditions, {content['minutes']} minutes; failed: {failed}"
    )
    if options.output:
        write_json(options.output, content)
    return int(bool(failed))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=float, default=1.0, help="part of the hundred")
    parser.add_argument("--only", default="", help="part of a name")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--output", type=Path, help="result file; ../results/torture/torture.json for everything")
    options = parser.parse_args()
    if options.output is None and options.kills == 1.0 and not options.only:
        options.output = RESULT
    return options


def _kill(folder: Path, options: argparse.Namespace, display: Display) -> dict[str, Any]:
    folder.mkdir()
    cases = [
        dataclasses.replace(case, kills=max(round(case.kills * options.kills), min(case.kills, 1)))
        for case in kill_cases(folder) if options.only in case.name
    ]  # fmt: skip
    found = {}
    with display.bar("kills", sum(case.kills for case in cases)) as bar:
        for case in cases:
            bar.note(case.name)
            place = folder / case.name.replace(" ", "-").replace(",", "")
            place.mkdir()
            record = torment(case, place, Random(f"{options.seed} {case.name}"), bar.advance)
            shutil.rmtree(place)
            found[case.name] = {
                "kills": record.kills, "runs": record.rounds, "most in one epoch": record.most_in_an_epoch(case.epoch),
                "cuts": record.cuts, "seconds": round(record.seconds, 1), "failures": record.failures,
            }  # fmt: skip
            display.say(f"{case.name}: {record.kills} kills, {record.seconds:.0f} s {_marked(record.failures)}")
    return found


def _disturb(folder: Path, options: argparse.Namespace, display: Display) -> dict[str, Any]:
    wanted = {**UNPRIVILEGED, **(WITH_MOUNTS if _INSIDE in os.environ else {})}
    wanted = {name: one for name, one in wanted.items() if options.only in name}
    found: dict[str, Any] = {}
    if not wanted:
        return found
    folder.mkdir()
    places = prepare(folder)
    with display.bar("conditions", len(wanted)) as bar:
        for name, condition in wanted.items():
            bar.note(name)
            try:
                one = dataclasses.asdict(condition(places))
            except Exception as error:  # one that cannot be set up does not hide the others
                one = {"said": "", "seconds": 0.0, "failures": [f"not tried: {type(error).__name__}: {error}"]}
            said = one["said"].replace(str(folder.parent), "FOLDER")
            found[name] = {**one, "said": said, "seconds": round(one["seconds"], 1)}
            bar.advance()
            display.say(f"{name}: {one['said'][-160:]} {_marked(one['failures'])}")
    return found


def _marked(failures: list[str]) -> str:
    return "".join(f"\n  FAILED {line}" for line in failures) or "ok"


if __name__ == "__main__":
    raise SystemExit(main())

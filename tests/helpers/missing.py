"""Commands in a Python in which some packages are not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

CODE = """
import importlib.machinery, json, os, sys, tempfile
packages, commands = json.loads(sys.argv[1])

class Hidden(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.partition(".")[0] in packages else super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Hidden

import gc
from coadvise.cli.main import main
gc.disable()
import coadvise.cost.plan, coadvise.evaluation.asking, coadvise.evaluation.prediction, coadvise.export.exporting
import coadvise.reproduce.command, coadvise.training.caching, coadvise.training.headroom
gc.freeze()
for command in commands:
    told = {name: tempfile.TemporaryFile("w+") for name in ("out", "err")}
    child = os.fork()
    if not child:
        os.dup2(told["out"].fileno(), 1), os.dup2(told["err"].fileno(), 2)
        sys.argv, code = ["coadvise", *command], 1
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    _, status = os.waitpid(child, 0)
    texts = {name: file.seek(0) or file.read() for name, file in told.items()}
    print(json.dumps([os.waitstatus_to_exitcode(status), texts["out"], texts["err"]]), flush=True)
gc.unfreeze()  # or Triton complains at the end
"""


class Said(NamedTuple):
    """How a command ended, and what it printed."""

    code: int
    out: str
    err: str


def without(packages: list[str], folder: Path, *commands: list[str]) -> list[Said]:
    """What commands do one after the other, in a folder and in copies of one process that has imported PyTorch."""
    source = Path(__file__).resolve().parents[2] / "src"
    environment = {**os.environ, "PYTHONPATH": str(source), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    command = [sys.executable, "-c", CODE, json.dumps([packages, commands])]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr
    return [Said(*json.loads(line)) for line in done.stdout.splitlines()]

"""The GPU kernels of involution, without a GPU: run by Triton's interpreter."""

import os
import subprocess
import sys

import pytest
from helpers import TESTS

pytest.importorskip("triton", reason="Triton is not installed on this platform")


def test_kernels_under_the_interpreter():
    """The kernels themselves, run by Triton on the CPU, against the loop: ragged tiles, all types, all tilings."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(TESTS), environment.get("PYTHONPATH", "")])
    command = [sys.executable, str(TESTS / "ops" / "interpreted_involution.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "all equal", done.stderr[-3000:]

"""Threads that wait for each other sleep soon: said to OpenMP before it is loaded."""

import subprocess
import sys

import pytest

from coadvise.system.threads import SPINS, wait_briefly


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_a_user_set_stays(given: dict[str, str]) -> None:
    environment = dict(given)
    wait_briefly(environment)
    assert environment == given


def test_the_command_line_says_it_before_pytorch_is_loaded() -> None:
    code = (
        "import os, sys; os.environ.pop('GOMP_SPINCOUNT', None); sys.argv = ['coadvise', 'train', '--help'];"
        "from coadvise.system import threads; plain = threads.wait_briefly;"
        "threads.wait_briefly = lambda: (print('torch' in sys.modules), plain(), print(os.environ['GOMP_SPINCOUNT']));"
        "from coadvise.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[:2] == ["False", SPINS], done.stderr

"""The bounds on work that other tests rely on: nothing that is tested gets round them."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.work import TooMuch, calls_at_most


def swallowing(times: int) -> None:
    for _ in range(times):
        with contextlib.suppress(Exception):
            len("")


def test_calls_are_bounded_also_where_exceptions_are_caught() -> None:
    with calls_at_most(1000):
        swallowing(100)
    with pytest.raises(TooMuch), calls_at_most(1000):
        swallowing(1100)
    with pytest.raises(TooMuch), calls_at_most(1000), contextlib.suppress(BaseException):
        swallowing(1100)


def test_what_does_not_end_ends_the_process_also_in_c() -> None:
    code = "from helpers.work import ends\nwith ends(0.5):\n    (1 << 10**9) % (10**9 + 7) ** 10**6\n"
    tests = Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", code], cwd=tests, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "Timeout" in done.stderr

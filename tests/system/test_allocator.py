"""Memory that a step frees is not asked of the system again in the next one, by the system's own count of pages."""

import subprocess
import sys

import pytest

from coadvise.system.allocator import keep_freed_memory

FAULTS = """
import resource, sys, torch
from coadvise.system.allocator import keep_freed_memory
if sys.argv[1] == "kept" and not keep_freed_memory({}):
    print("without glibc"); sys.exit()
def step():
    a = torch.ones(48 * 2**18)  # 48 MiB
    return a + 1
for _ in range(20):  # until what is kept has the blocks that a step needs
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, timeout=120)
    if done.stdout.startswith("without"):
        pytest.skip("there is no glibc here")
    return int(done.stdout)


def test_the_pages_of_a_step_are_those_of_the_step_before() -> None:
    pages = 2 * 4 * 48 * 2**20 // 4096
    kept = faults("kept")
    assert kept < pages / 7
    assert faults("plain") > 3 * kept  # otherwise the line above shows nothing


@pytest.mark.parametrize("given", [{"MALLOC_MMAP_MAX_": "7"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=7"}])
def test_what_a_user_set_stays(given: dict[str, str]) -> None:
    assert not keep_freed_memory(given)

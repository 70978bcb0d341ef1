"""Memory that a step frees is not asked of the system again in the next one, by the system's own count of pages."""

import subprocess
import sys

import pytest

from coadvise.system.allocator import keep_freed_memory

FAULTS = """
import resource, torch
from coadvise.system.allocator import keep_freed_memory
def step():
    a = torch.ones(48 * 2**18)  # 48 MiB
    return a + 1
def faults():
    for _ in range(20):  # until what is kept has the blocks that a step needs
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(4):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
plain = faults()
print(plain, faults() if keep_freed_memory({}) else "without glibc")
"""


@pytest.mark.slow
def test_the_pages_of_a_step_are_those_of_the_step_before() -> None:
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, timeout=120)
    if "without" in done.stdout:
        pytest.skip("there is no glibc here")
    plain, kept = map(int, done.stdout.split())
    pages = 2 * 4 * 48 * 2**20 // 4096
    assert kept < pages / 7
    assert plain > 3 * kept  # otherwise the line above shows nothing


@pytest.mark.parametrize("given", [{"MALLOC_MMAP_MAX_": "7"}, {"GLIBC_TUNABLES": "glibc.malloc.mmap_max=7"}])
def test_what_a_user_set_stays(given: dict[str, str]) -> None:
    assert not keep_freed_memory(given)

"""Memory of the CPU that is freed within a step, and needed again in the next one."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping

# Numbers of glibc's <malloc.h>.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
# Larger blocks than that still go back to the system at once.
LARGEST_KEPT = 2**30
_SET_BY_USERS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")


def keep_freed_memory(environment: Mapping[str, str] = os.environ) -> bool:
    """Let glibc keep the large blocks that are freed: those of the next step take their place.

    Left to itself it gives a freed block of some 32 MB and more back to the system, which clears its pages and hands
    them out again at the next step, one by one as they are touched: 7 % of a co-advised step of `cit_small_sa`
    (docs/log.md). What a process needs at its peak stays what it was; it keeps it from then on.

    Returns:
        Whether it does; False on systems without glibc, and where a user has set this himself.
    """
    by_user = any(name in environment for name in _SET_BY_USERS) or "malloc" in environment.get("GLIBC_TUNABLES", "")
    if by_user:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    # The first may be refused: older versions allow 32 MB at the most.
    return bool(
        mallopt(_MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(_TRIM_THRESHOLD, 2**31 - 1) and mallopt(_TOP_PAD, 2**26)
    )

"""How long the threads of a CPU wait busily for each other."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

# Left to itself GCC's OpenMP, which PyTorch brings for Linux, spins 300,000 times (its manual, GOMP_SPINCOUNT).
SPINS = "2000"
_SET_BY_USERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let threads that wait for others sleep soon; to be called before PyTorch is loaded, which reads it once.

    A thread that spins keeps its core from whatever would let it go on: a thread of its own team, loader processes,
    other runs. On an idle machine so short a spin costs next to nothing, on a busy one training is more than twice as
    fast (findings/torch_openmp_spins.sh).
    """
    if not any(name in environment for name in _SET_BY_USERS):
        environment["GOMP_SPINCOUNT"] = SPINS

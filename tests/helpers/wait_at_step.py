"""Run by the tests of the command line: `coadvise ARGUMENTS`, which waits at its third update for a signal.

`python -m helpers.wait_at_step FILE ARGUMENTS` makes the file there, and goes on once that is gone again.
"""

import sys
import time
from pathlib import Path
from typing import Any

import torch

from coadvise.cli.main import main

there, updates = Path(sys.argv.pop(1)), 0
original = torch.optim.AdamW.step


def waiting_step(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
    global updates
    updates += 1
    if updates == 3:
        there.touch()
        while there.exists():
            time.sleep(0.01)
    return original(self, *args, **kwargs)


torch.optim.AdamW.step = waiting_step  # type: ignore[method-assign]
main()

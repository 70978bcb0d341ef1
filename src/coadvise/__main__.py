"""`python -m coadvise`, as `torchrun -m coadvise` needs it."""

from .cli import main

main()

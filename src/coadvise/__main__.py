"""`python -m coadvise`, as `torchrun -m coadvise` needs it."""

from .cli.main import main

main()

"""`python -m coadvise`, as `torchrun -m coadvise` needs it."""

import signal
import sys

from .system.threads import wait_briefly


def main() -> None:
    """The command line; a signal gets its answer from the first moment on."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    wait_briefly()
    try:
        from .cli.main import main as run
    except KeyboardInterrupt:
        print("stopped; the same command starts again", file=sys.stderr)
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()

"""What several tests need: the smallest recipes and experiments, and scripts that tests run as processes.

A script is run as `python -m helpers.NAME` in the folder `TESTS`.
"""

from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
SHARED = TESTS.parents[1] / "shared"
"""Real images and weights beside the repository; tests that need them skip where they are absent."""

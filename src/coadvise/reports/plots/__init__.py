"""The figures; without Matplotlib this package says what to install."""

from ...system.extras import need

need("matplotlib", "a report, or a figure,")

"""Numbers of parameters of the networks that the paper names, with 1,000 classes.

They follow from the architectures, so claims about them need no run; tests count them anew in the networks themselves.
"""

from __future__ import annotations

PARAMETERS = {
    "regnety_006": 6_055_160,
    "regnety_040": 20_646_656,
    "regnety_160": 83_590_140,
    "rednet26": 9_233_166,
    "rednet101": 25_652_950,
}
"""By the name of the model."""

"""Names that tokens, results and reports share."""

VERSION = "0.1.0"

CLASS = "class"
"""The class token, and the only output of a model with one head; no teacher may have this name."""
TOP1 = "accuracy/class"
"""The metric that decides: top-1 of the class token, as a share."""
MEAN = "mean"
"""Name of the token that the mean of all teachers advises, where it does (`advice.change`)."""
APART = "apart"
"""The term of the loss that keeps heads apart (`loss.apart`), beside those of tokens and teachers."""
AVERAGE = "accuracy/average"
"""Top-1 by the mean of all heads' logits, where there are several."""

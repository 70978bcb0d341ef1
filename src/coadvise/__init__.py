"""coadvise: training vision transformers by cross inductive bias distillation."""

__version__ = "0.1.0"

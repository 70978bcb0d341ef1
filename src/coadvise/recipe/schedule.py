"""The recipe's part on how long is trained, and how the learning rate goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from .fields import Count, NonNegative, Part


class Schedule(Part):
    """Cosine learning rate with a linear warm-up, set at every step."""

    epochs: Count = 300
    warmup_epochs: NonNegative = 5
    warmup_lr: NonNegative = 1e-6
    min_lr: NonNegative = 1e-5
    head_epochs: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Epochs at the beginning, of `epochs`, in which heads and advised tokens alone learn."""
    patience: Count | None = None
    """Stop after so many evaluations in a row that were no better than the best; null trains to the end."""

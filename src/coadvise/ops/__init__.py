"""Tensor operators that PyTorch does not have."""

from .involution import involution

__all__ = ["involution"]

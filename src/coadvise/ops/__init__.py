"""Tensor operators that PyTorch does not have."""

from coadvise.ops.involution import involution

__all__ = ["involution"]

"""Kinds of numbers and shapes in signatures: `Float[Tensor, "b k"]` is a tensor of floats of b rows and k columns.

They are notes for readers, in jaxtyping's notation: a type checker, and Python, see the array's own type alone.
"""

from typing import Annotated as Bool
from typing import Annotated as Float
from typing import Annotated as Float16
from typing import Annotated as Float32
from typing import Annotated as Float64
from typing import Annotated as Int
from typing import Annotated as Int32
from typing import Annotated as Int64
from typing import Annotated as UInt8
from typing import Annotated as UInt16
from typing import Annotated as UInt64

__all__ = ["Bool", "Float", "Float16", "Float32", "Float64", "Int", "Int32", "Int64", "UInt8", "UInt16", "UInt64"]

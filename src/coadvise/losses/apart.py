"""A term that keeps the heads of advised tokens from reading the same directions of their tokens.

K. Saito, Y. Ushiku, T. Harada: "Asymmetric Tri-training for Unsupervised Domain Adaptation", ICML 2017, keep two
classifiers of one network apart by adding |W1ᵀ W2| of their first layers' weights, so that each sees other features.
Ours departs in two ways: squared cosines in place of products, so that heads cannot lower it by small weights, and rows
that are centred over the classes, since softmax does not see what all rows have in common.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Float


def heads_apart(weights: Sequence[Float[Tensor, "k d"]]) -> Float[Tensor, ""]:
    """Mean squared cosine between each class's row of one head and of another, over all pairs of heads; in float32.

    It is 1 for heads that read one direction alone, 0 for heads that read orthogonal parts of their tokens, and 1/d on
    average for random ones. With more classes than d, heads that use all d directions cannot reach 0.

    Args:
        weights: of at least two heads of one width.
    """
    rows = [F.normalize(weight.float() - weight.float().mean(dim=0), dim=1) for weight in weights]
    pairs = [(a @ b.T).square().mean() for a, b in itertools.combinations(rows, 2)]
    return torch.stack(pairs).mean()

"""Order and pairs, by their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest

from coadvise.data.views.order import Order, epoch_order, partner
from coadvise.recipe.schema import Data


@pytest.mark.parametrize("n", [1, 2, 7, 10, 33, 1000])
def test_an_epoch_is_a_permutation(n):
    order = epoch_order(n, 1, 0, 0)
    assert order.shape == (n, 2) and order.dtype == np.int64
    assert sorted(order[:, 0]) == list(range(n)) and not order[:, 1].any()
    if n > 9:
        assert not np.array_equal(order, epoch_order(n, 1, 0, 1))
        assert not np.array_equal(order, epoch_order(n, 1, 1, 0))
    assert np.array_equal(order, epoch_order(n, 1, 0, 0))


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 33, 100, 101])
@pytest.mark.parametrize("repeats", [2, 3, 5])
def test_repeats(n, repeats):
    order = [tuple(row) for row in epoch_order(n, repeats, 3, 4).tolist()]
    once = epoch_order(n, 1, 3, 4)[:, 0].tolist()
    expected = []  # by the definition, one step at a time
    for at in range(0, n, 2):
        for copy in range(repeats):
            expected += [(index, copy) for index in once[at : at + 2]]
    assert order == expected[:n]
    assert len(set(order)) == n


@pytest.mark.parametrize("n", [1, 2, 7, 10, 33, 1000])
def test_partners_are_mutual_and_adjacent(n):
    mates = partner(n, 5, 6)
    alone = np.flatnonzero(mates < 0)
    assert len(alone) == n % 2
    for index, mate in enumerate(mates):
        if mate >= 0:
            assert mates[mate] == index and mate != index
    order = epoch_order(n, 1, 5, 6)[:, 0]
    for at in range(0, n - 1, 2):
        assert mates[order[at]] == order[at + 1]
    if n > 9:
        assert not np.array_equal(mates, partner(n, 5, 7))
    with pytest.raises(ValueError, match="read-only"):
        mates[0] = 0


LABELS = np.array([0, 1, -1, 0, -1, -1, -1, 0, -1, -1, -1, -1, -1, 1, -1, -1, -1, -1, -1, -1, -1, -1, -1])


@pytest.mark.parametrize("balance", ["none", "weights", "sampling"])
def test_labelled_images_are_spread_evenly_among_the_others(balance):
    order = Order(Data(source="digits", seed=5, balance=balance), LABELS)
    assert not np.array_equal(order.rows(0), order.rows(1))
    for view in (0, 1, 7):
        rows = order.rows(view)
        assert np.array_equal(rows, Order(Data(source="digits", seed=5, balance=balance), LABELS).rows(view))
        labels = LABELS[rows[:, 0]]
        for m in range(1, len(LABELS)):  # micro-batches of all sizes, on all processes
            counts = [sum(labels[at : at + m] >= 0) for at in range(len(LABELS) - m + 1)]
            assert {math.floor(m * 5 / 23), math.ceil(m * 5 / 23)} >= set(counts)
        assert sorted(rows[labels < 0, 0]) == [i for i, label in enumerate(LABELS) if label < 0]
        if balance == "sampling":
            assert sorted(labels[labels >= 0]) in ([0, 0, 0, 1, 1], [0, 0, 1, 1, 1])
        else:
            assert sorted(rows[labels >= 0, 0]) == [0, 1, 3, 7, 13] and not rows[:, 1].any()
        for at in range(len(rows)):
            found = order.partners(view, rows[at : at + 1, 0], rows[at : at + 1, 1])
            mate = at + 1 if at % 2 == 0 else at - 1
            expected = tuple(rows[mate]) if mate < len(rows) else (-1, rows[at, 1])
            assert (found[0][0], found[1][0]) == expected

"""Order and pairs, by their definition."""

from __future__ import annotations

import numpy as np
import pytest

from coadvise.data.views.order import epoch_order, partner


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

"""Stratified subsets."""

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.seeding import numpy_stream
from monosem.data.subsets import stratified_indices


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_subsets_have_the_exact_size_and_every_classes_share(data: Any) -> None:
    labels = np.array(data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=80)))
    size = data.draw(st.integers(1, 90))

    rows = stratified_indices(labels, size, numpy_stream(0, "test"))

    size = min(size, len(labels))
    assert len(rows) == size
    assert (np.diff(rows) > 0).all()
    for label in range(7):
        share = size * (labels == label).sum() / len(labels)
        assert abs((labels[rows] == label).sum() - share) < 1


def test_what_is_left_over_goes_to_the_largest_remainders() -> None:
    labels = np.repeat([0, 1, 2], [5, 3, 2])
    rows = stratified_indices(labels, 4, numpy_stream(0, "test"))
    assert np.bincount(labels[rows]).tolist() == [2, 1, 1]


def test_rows_are_drawn_from_all_of_a_class() -> None:
    labels = np.zeros(50, dtype=int)
    drawn = np.concatenate([stratified_indices(labels, 10, numpy_stream(seed)) for seed in range(60)])
    assert set(drawn.tolist()) == set(range(50))

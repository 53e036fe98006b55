from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monosem.core.errors import InputError
from monosem.data.feature_set import FeatureSet
from monosem.measures.blocks import as_floats, check_labels, features_shape, row_blocks

VALUES = np.arange(21, dtype=np.float32).reshape(7, 3)


def read_only_map(folder: Path) -> np.ndarray:
    np.save(folder / "values.npy", VALUES)
    return np.load(folder / "values.npy", mmap_mode="r")


@pytest.mark.parametrize("kind", ["array", "tensor", "half", "integers", "map", "feature_set"])
def test_every_kind_of_features_is_read_whole_and_in_order(kind: str, tmp_path: Path) -> None:
    features = {
        "array": lambda: VALUES,
        "tensor": lambda: torch.from_numpy(VALUES),
        "half": lambda: VALUES.astype(np.float16),
        "integers": lambda: VALUES.astype(np.int64),
        "map": lambda: read_only_map(tmp_path),
        "feature_set": lambda: FeatureSet.from_arrays(VALUES, np.zeros(7, dtype=np.int64)),
    }[kind]()
    spans, blocks = zip(*row_blocks(features, rows=3), strict=True)
    assert [(span.start, span.stop) for span in spans] == [(0, 3), (3, 6), (6, 7)]
    assert torch.equal(torch.cat(blocks), torch.from_numpy(VALUES))
    assert features_shape(features) == (7, 3)


def test_float64_is_not_rounded() -> None:
    value = 1 + 2**-40
    ((_, block),) = row_blocks(np.array([[value]]))
    assert block.item() == value


@pytest.mark.parametrize(("shape", "shown"), [((3,), r"\(3,\)"), ((0, 2), r"\(0, 2\)")])
def test_what_is_no_table_is_refused(shape: tuple[int, ...], shown: str) -> None:
    with pytest.raises(InputError, match=shown):
        features_shape(np.zeros(shape))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1.0, 2.0]], "an array, a tensor or a feature set, got list; numpy.asarray makes an array"),
        (None, "got NoneType"),
        (np.ones((2, 2), dtype=np.complex64), "must be real numbers, got complex64"),
        (torch.ones(2, 2, dtype=torch.complex128), r"must be real numbers, got torch\.complex128"),
        (np.array([["a", "b"]]), "must be real numbers, got <U1"),
        (torch.eye(2).to_sparse(), "sparse tensor; make them dense"),
    ],
)
def test_what_holds_no_numbers_is_refused(given: Any, message: str) -> None:
    for read in (features_shape, as_floats, lambda some: next(row_blocks(some))):
        with pytest.raises(InputError, match=message):
            read(given)


@pytest.mark.parametrize(
    ("labels", "n_classes", "message"),
    [
        ([0, 1, 2], 2, "label 2 of row 2 lies outside 0..1"),
        ([0, -1, 0], 2, "label -1 of row 1"),
        ([0, 1], 2, "3 rows"),
        ([0.0, 1.0, 1.0], 2, "integers"),
        ([0, 0, 0], 1, "two classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels: list[int], n_classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_labels(np.array(labels), 3, n_classes)


def test_labels_never_turn_negative() -> None:
    largest = np.array([0, 2**63 - 1, 1], dtype=np.uint64)
    assert check_labels(largest, 3, 2**64).tolist() == [0, 2**63 - 1, 1]
    for labels in (largest + np.uint64(1), torch.from_numpy(largest + np.uint64(1))):
        with pytest.raises(InputError, match="label 9223372036854775808 of row 1 does not fit int64"):
            check_labels(labels, 3, 2**64)

"""The restricted unpickler: every array the canonical files could hold, and nothing that runs."""

import collections
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from monosem.core.errors import InputError
from monosem.data.pickled import read_plain_pickle

PATH = Path("some/batch")
PLAIN = {
    "data": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "columns": np.asfortranarray(np.ones((2, 3), np.float32)),
    "labels": [0, 1, 2],
    "name": "batch",
    "raw": b"\xff\x00",
}


class Executes:
    """A pickle of this would call a function when it is loaded."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_and_arrays_survive_in_every_protocol(protocol: int) -> None:
    read = read_plain_pickle(pickle.dumps(PLAIN, protocol), PATH)
    assert read.keys() == PLAIN.keys()
    for key, value in PLAIN.items():
        np.testing.assert_array_equal(read[key], value)
        assert type(read[key]) is type(value)


def test_names_of_older_numpy_are_understood() -> None:
    content = pickle.dumps(PLAIN, 2).replace(b"numpy._core.", b"numpy.core.")
    assert b"numpy.core.multiarray" in content
    np.testing.assert_array_equal(read_plain_pickle(content, PATH)["data"], PLAIN["data"])


def test_strings_of_python_2_are_read_as_latin1() -> None:
    # {'data': '\xe9'} as Python 2 pickles it with protocol 2
    assert read_plain_pickle(b"\x80\x02}q\x00U\x04dataq\x01U\x01\xe9q\x02s.", PATH) == {"data": "é"}


def test_arrays_of_python_2_and_numpy_1_are_read_as_in_the_canonical_files() -> None:
    content = (
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
        b"(K\x01K\x03\x85cnumpy\ndtype\nq\x04U\x02u1K\x00K\x01\x87Rq\x05(K\x03U\x01|NNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x03\x00\x80\xfftb."
    )
    read = read_plain_pickle(content, PATH)
    assert read.dtype == np.uint8
    assert read.tolist() == [0, 128, 255]


@pytest.mark.parametrize(
    ("function", "arguments", "name"),
    [
        (os.system, ("touch executed",), "posix.system"),
        (eval, ("open('executed', 'w')",), "builtins.eval"),
        (getattr, ("", "join"), "builtins.getattr"),
        (np.load, ("executed",), "numpy.load"),
        (collections.OrderedDict, (), "collections.OrderedDict"),
    ],
)
def test_a_pickle_that_would_run_something_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: Any, arguments: tuple[Any, ...], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    content = pickle.dumps({"data": Executes(function, *arguments)})
    with pytest.raises(InputError, match=rf"some/batch: refused, this pickle calls {name}"):
        read_plain_pickle(content, PATH)
    assert not list(tmp_path.iterdir())


def test_a_pickle_cut_off_anywhere_is_one_clear_error() -> None:
    content = pickle.dumps(PLAIN)
    for length in range(len(content)):
        with pytest.raises(InputError, match="some/batch: truncated or damaged pickle"):
            read_plain_pickle(content[:length], PATH)

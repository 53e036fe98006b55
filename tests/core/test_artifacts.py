import errno
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.core.artifacts import (
    append_line,
    atomic_folder,
    fingerprint_arrays,
    fingerprint_json,
    load_tensors,
    read_json,
    save_tensors,
    verify_folder,
    write_json_atomic,
    write_text_atomic,
)
from monosem.core.errors import InputError, MonosemError


def _write(path, text="old"):
    with atomic_folder(path) as draft:
        (draft / "part").mkdir()
        (draft / "part" / "a.txt").write_text(text)


def test_a_sealed_folder_verifies_and_every_kind_of_damage_is_named(tmp_path):
    path = tmp_path / "artifact"
    _write(path)
    verify_folder(path)
    (path / "part" / "a.txt").write_text("new")
    with pytest.raises(InputError, match=r"a\.txt: damaged"):
        verify_folder(path)
    (path / "part" / "a.txt").unlink()
    with pytest.raises(InputError, match=r"a\.txt: missing"):
        verify_folder(path)
    _write(path)
    (path / "extra").write_text("?")
    with pytest.raises(InputError, match="extra: not part of it"):
        verify_folder(path)


def test_a_folder_that_is_no_artifact_is_refused(tmp_path):
    with pytest.raises(InputError, match="not a complete"):
        verify_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"part/a'])
def test_a_damaged_list_of_checksums_is_damage_too(tmp_path, text):
    _write(tmp_path / "artifact")
    (tmp_path / "artifact" / "checksums.json").write_text(text)
    with pytest.raises(InputError, match=r"checksums\.json"):
        verify_folder(tmp_path / "artifact")


@pytest.mark.parametrize("fault", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_the_old_folder_and_nothing_else(tmp_path, fault):
    path = tmp_path / "artifact"
    _write(path)

    def write_half():
        with atomic_folder(path) as draft:
            (draft / "a.txt").write_text("half")
            raise fault

    with pytest.raises(fault):
        write_half()
    assert (path / "part" / "a.txt").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["artifact"]


def test_an_interruption_while_replacing_leaves_the_old_folder(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint"
    _write(path)
    rename = Path.rename

    def interrupted(self, target):
        if Path(target) == path and self.name.endswith(".draft"):
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _write(path, "new")
    verify_folder(path)
    assert (path / "part" / "a.txt").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["checkpoint"]


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(MonosemError, match="disk is full") as caught:
        write_text_atomic(tmp_path / "summary.md", "text")
    assert caught.value.exit_code == 1
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MonosemError, match="disk is full"), atomic_folder(tmp_path / "artifact"):
        full()
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_under_an_array_is_told_like_any_other(tmp_path):
    """What numpy raises then, taken from a real full disk."""
    with pytest.raises(MonosemError, match="disk is full"), atomic_folder(tmp_path / "features"):
        raise OSError("1048576 requested and 262128 written")
    with pytest.raises(OSError, match="unrelated"), atomic_folder(tmp_path / "features"):
        raise OSError("unrelated")


@pytest.mark.parametrize("torn", ['{"event": "epo', 'first\n{"event": "epo', "first\n", ""])
def test_a_line_is_never_glued_to_half_a_line(tmp_path, torn):
    path = tmp_path / "log.jsonl"
    path.write_text(torn)
    append_line(path, "söcond")
    append_line(path, "third")
    whole = [line for line in torn.splitlines(keepends=True) if line.endswith("\n")]
    assert path.read_text(encoding="utf-8") == "".join([*whole, "söcond\n", "third\n"])


def test_json_and_tensors_round_trip(tmp_path):
    write_json_atomic(tmp_path / "a.json", {"b": [1, 2.5, None]})
    assert read_json(tmp_path / "a.json") == {"b": [1, 2.5, None]}
    tensors = {"w": torch.arange(6.0).reshape(2, 3).T, "n": torch.tensor(3)}
    save_tensors(tmp_path / "w.safetensors", tensors)
    loaded = load_tensors(tmp_path / "w.safetensors")
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "w.safetensors").write_bytes(b"not tensors")
    for read in (lambda: read_json(tmp_path / "a.json"), lambda: load_tensors(tmp_path / "w.safetensors")):
        with pytest.raises(InputError, match="not"):
            read()
    for read in (lambda: read_json(tmp_path / "b.json"), lambda: load_tensors(tmp_path / "b.safetensors")):
        with pytest.raises(InputError, match="no such file"):
            read()


def test_fingerprints_see_values_shape_type_and_order():
    a = np.arange(6, dtype=np.float32)
    same = fingerprint_arrays(a)
    assert same == fingerprint_arrays(torch.from_numpy(a))
    assert same == fingerprint_arrays(np.arange(12, dtype=np.float32)[:6])
    others = [a + 1, a.reshape(2, 3), a.astype(np.float64)]
    assert len({same, *(fingerprint_arrays(other) for other in others)}) == 4
    assert fingerprint_arrays(a, a + 1) != fingerprint_arrays(a + 1, a)
    assert fingerprint_json({"a": 1, "b": 2}) == fingerprint_json({"b": 2, "a": 1})
    assert fingerprint_json({"a": 1}) != fingerprint_json({"a": 2})


def test_tensors_of_types_that_numpy_does_not_know_have_fingerprints():
    a = torch.arange(6.0).bfloat16()
    others = [a + 1, a.reshape(2, 3), a.half(), a.view(torch.uint8), a[0], a.view(2, 3).T]
    assert fingerprint_arrays(a) == fingerprint_arrays(torch.arange(12.0).bfloat16()[:6])
    assert fingerprint_arrays(a.view(2, 3).T) == fingerprint_arrays(a.view(2, 3).T.contiguous())
    assert len({fingerprint_arrays(a), *(fingerprint_arrays(other) for other in others)}) == 7


def test_what_others_put_there_is_not_replaced(tmp_path):
    (tmp_path / "mine" / "part").mkdir(parents=True)
    (tmp_path / "mine" / "part" / "thesis.txt").write_text("years")
    _write(tmp_path / "ours")
    (tmp_path / "ours" / "part" / "notes.txt").write_text("mine")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "there").symlink_to(tmp_path / "mine", target_is_directory=True)
    (tmp_path / "unlisted").mkdir()
    (tmp_path / "unlisted" / "checksums.json").write_text("[]")
    (tmp_path / "unlisted" / "b.txt").write_text("b")
    (tmp_path / "file").write_text("a file")
    before = {path: path.is_dir() or path.read_text() for path in tmp_path.rglob("*")}
    for name, message in {
        "mine": "mine: holds files that monosem did not write; give a folder of its own",
        "ours": r"ours: holds part/notes\.txt, which would be lost",
        "linked": "linked: holds files that monosem did not write",
        "unlisted": r"unlisted: holds b\.txt",
        "file": "file: is a file",
    }.items():
        with pytest.raises(InputError, match=message), atomic_folder(tmp_path / name):
            raise AssertionError("no work before it is known that there is a place for it")
    with pytest.raises(InputError, match="cannot be replaced"), atomic_folder(Path()):
        raise AssertionError
    assert {path: path.is_dir() or path.read_text() for path in tmp_path.rglob("*")} == before


def test_what_appears_while_a_folder_is_written_is_not_replaced_either(tmp_path):
    def write_slowly():
        with atomic_folder(tmp_path / "artifact"):
            (tmp_path / "artifact").mkdir()
            (tmp_path / "artifact" / "thesis.txt").write_text("years")

    with pytest.raises(InputError, match="did not write"):
        write_slowly()
    assert [path.name for path in tmp_path.rglob("*")] == ["artifact", "thesis.txt"]


@pytest.mark.parametrize("damage", ["none", "changed", "missing"])
def test_what_monosem_wrote_is_replaced_even_when_damaged(tmp_path, damage):
    path = tmp_path / "artifact"
    path.mkdir()  # nothing is in it
    _write(path)
    if damage == "changed":
        (path / "part" / "a.txt").write_text("damaged")
    if damage == "missing":
        (path / "part" / "a.txt").unlink()
    _write(path, "new")
    verify_folder(path)
    assert (path / "part" / "a.txt").read_text() == "new"


def test_a_place_that_is_monosems_own_is_replaced_whatever_it_holds(tmp_path):
    path = tmp_path / "artifact"
    _write(path)
    (path / "extra").write_text("?")
    (path / "checksums.json").write_text("")
    with atomic_folder(path, guarded=False) as draft:
        (draft / "a.txt").write_text("new")
    verify_folder(path)


def test_a_folder_in_the_layout_of_others_carries_no_seal(tmp_path):
    with atomic_folder(tmp_path / "theirs", sealed=False) as draft:
        (draft / "a.txt").write_text("a")
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["a.txt"]

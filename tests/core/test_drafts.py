import subprocess
import sys
from pathlib import Path

import pytest

from monosem.core import drafts
from monosem.core.artifacts import atomic_file, atomic_folder, verify_folder, write_text_atomic
from monosem.core.drafts import sweep_drafts

WRITER = """
import sys, time
from pathlib import Path
from monosem.core.drafts import draft_names, new_draft
folder, _ = draft_names(Path(sys.argv[1], "a.folder"))
file, _ = draft_names(Path(sys.argv[1], "a.file"))
with new_draft(folder, Path.mkdir), new_draft(file, Path.touch):
    print("at work", flush=True)
    time.sleep(60)
"""


def test_drafts_stay_while_their_writer_lives_and_go_after_it_was_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "at work\n"
        sweep_drafts(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
        writer.kill()
    assert len(list(tmp_path.iterdir())) == 2
    sweep_drafts(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_this_process_writes_is_locked_until_it_has_its_name(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "folder") as draft:
        (draft / "a.txt").write_text("a")
        sweep_drafts(tmp_path)
    with atomic_file(tmp_path / "file") as draft:
        sweep_drafts(tmp_path)
        draft.write_text("b")
        sweep_drafts(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"folder", "file"}


def test_nothing_but_drafts_is_swept(tmp_path: Path) -> None:
    for name in (".my.draft", "my.01234567.draft", ".gitignore"):
        (tmp_path / name).write_text("mine")
    sweep_drafts(tmp_path)
    sweep_drafts(tmp_path / "nowhere")
    assert len(list(tmp_path.iterdir())) == 3


def killed_while_replacing(path: Path, *, after: str) -> None:
    """What a kill leaves right after the first or the second rename of a replacement."""
    for text in ("old", "new"):
        with atomic_folder(path if text == "old" else path.with_name("next")) as draft:
            (draft / "a.txt").write_text(text)
    path.rename(path.with_name(f".{path.name}.01234567.replaced"))
    new = path.with_name(f".{path.name}.01234567.draft") if after == "first" else path
    path.with_name("next").rename(new)


@pytest.mark.parametrize(("after", "text"), [("first", "old"), ("second", "new")])
def test_a_replacement_cut_short_leaves_the_old_folder_or_the_new_one(
    tmp_path: Path, after: str, text: str
) -> None:
    path = tmp_path / "an.artifact"
    killed_while_replacing(path, after=after)
    sweep_drafts(tmp_path)
    verify_folder(path)
    assert (path / "a.txt").read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_contents_are_on_the_disk_before_the_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every part of a folder is flushed once, inner artifacts with the outer one, and the parent at last."""
    flushed: list[str] = []
    flush_one = drafts._flush_one

    def noted(path: Path) -> None:
        flush_one(path)
        flushed.append("/".join(part for part in path.parts[-2:] if not part.endswith(".draft")))

    monkeypatch.setattr(drafts, "_flush_one", noted)
    with atomic_folder(tmp_path / "outer") as draft:
        write_text_atomic(draft / "a.txt", "a")
        with atomic_folder(draft / "inner") as inner:
            (inner / "b.txt").write_text("b")
        assert flushed == []
    assert sorted(flushed[:-1]) == sorted(
        ["a.txt", "checksums.json", "inner", "inner/b.txt", "inner/checksums.json", tmp_path.name]
    )
    assert flushed[-1].endswith(tmp_path.name)

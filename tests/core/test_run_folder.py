import pytest

from monosem.core.artifacts import read_json
from monosem.core.errors import InputError
from monosem.core.run_folder import RunFolder, mark_complete, open_run

RECIPE = {"seed": 0}


def test_a_run_says_that_it_is_not_complete_until_it_is(tmp_path):
    run = RunFolder.claim(tmp_path / "run", RECIPE, "hash", "monosem run x")
    with pytest.raises(InputError, match="not complete; finish it with: monosem run x"):
        open_run(tmp_path / "run")
    run.write_manifest("monosem run x", tables_complete=True, wall_seconds_total=1.5)
    assert not open_run(tmp_path / "run")["complete"]  # the tables can be read, the reports are not there
    mark_complete(tmp_path / "run")
    manifest = open_run(tmp_path / "run")
    assert manifest["complete"]
    assert manifest["wall_seconds_total"] == 1.5
    assert manifest["recipe"] == RECIPE
    assert manifest["versions"]["torch"] != "missing"


def test_the_same_recipe_may_go_on_and_another_may_not(tmp_path):
    first = RunFolder.claim(tmp_path, RECIPE, "hash", "a")
    assert RunFolder.claim(tmp_path, {"moved": True}, "hash", "b").recipe_hash == first.recipe_hash
    with pytest.raises(InputError, match="another run"):
        RunFolder.claim(tmp_path, {"seed": 1}, "other", "c")
    assert read_json(tmp_path / "manifest.json")["command"] == "b"


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.claim(tmp_path, RECIPE, "hash", "a")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(InputError, match="no run folder"):
        open_run(tmp_path)


def test_a_folder_is_looked_at_without_being_taken(tmp_path):
    run, other = (RunFolder(tmp_path / "run", RECIPE, recipe_hash) for recipe_hash in ("hash", "other"))
    assert not run.check()
    assert not run.path.exists()
    RunFolder.claim(run.path, RECIPE, "hash", "a")
    assert not run.check()
    run.write_manifest("a", tables_complete=True)
    before = (run.path / "manifest.json").read_bytes()
    assert run.check()
    with pytest.raises(InputError, match="another run"):
        other.check()
    assert (run.path / "manifest.json").read_bytes() == before

from pathlib import Path

import pytest

from monosem.core.errors import Paused
from monosem.experiments.stage_cache import Stage, StageCache


class Maker:
    """Counts how often a stage is really made."""

    def __init__(self):
        self.made = 0

    def __call__(self, output: Path, scratch: Path) -> None:
        self.made += 1
        (output / "value.txt").write_text("42")


def test_a_stage_is_made_once_and_found_again(tmp_path):
    make, stage = Maker(), Stage("sae", {"k": 3})
    folder = StageCache(tmp_path).run(stage, make)
    assert StageCache(tmp_path).run(Stage("sae", {"k": 3}), make) == folder
    assert make.made == 1
    assert (folder / "value.txt").read_text() == "42"


def test_what_determines_the_output_is_in_the_key():
    base = Stage("sae", {"k": 3}, [Stage("embed", 1)])
    others = [
        Stage("sae", {"k": 4}, base.inputs),
        Stage("sae", {"k": 3}, [Stage("embed", 2)]),
        Stage("sae", {"k": 3}, base.inputs, version=2),
        Stage("probe", {"k": 3}, base.inputs),
    ]
    assert len({base.key, *(stage.key for stage in others)}) == 5


@pytest.mark.parametrize("file", ["value.txt", "added.txt", "checksums.json"])
def test_a_damaged_output_is_recognised_and_made_again(tmp_path, file):
    make, stage, said = Maker(), Stage("sae", {}), []
    folder = StageCache(tmp_path).run(stage, make)
    (folder / file).write_text("43")
    cache = StageCache(tmp_path, said.append)
    assert (cache.run(stage, make) / "value.txt").read_text() == "42"
    assert make.made == 2
    assert file in said[0]


def test_an_interrupted_stage_leaves_its_scratch_and_no_output(tmp_path):
    stage, cache = Stage("pretrain", {}), StageCache(tmp_path)

    def pause(output: Path, scratch: Path) -> None:
        scratch.mkdir(parents=True)
        (scratch / "checkpoint").write_text("epoch 3")
        raise Paused

    with pytest.raises(Paused):
        cache.run(stage, pause)
    assert not cache.has(stage)

    def resume(output: Path, scratch: Path) -> None:
        (output / "value.txt").write_text((scratch / "checkpoint").read_text())

    assert (cache.run(stage, resume) / "value.txt").read_text() == "epoch 3"
    assert not list(tmp_path.glob("unfinished/*"))
    assert stage.key in cache.wall_seconds


def test_time_spent_before_an_interruption_counts(tmp_path, monkeypatch):
    clock = iter([0.0, 100.0, 1000.0, 1005.0])
    monkeypatch.setattr("monosem.experiments.stage_cache.time.monotonic", lambda: next(clock))
    stage, cache = Stage("pretrain", {}), StageCache(tmp_path)

    def pause(output: Path, scratch: Path) -> None:
        raise Paused

    with pytest.raises(Paused):
        cache.run(stage, pause)
    cache.run(stage, Maker(), expected_seconds=210.0)
    assert cache.wall_seconds[stage.key] == 105.0
    assert cache.pace("pretrain") == 0.5
    assert cache.pace("sae") == 1.0
    assert not list(tmp_path.glob("unfinished/*"))


def test_a_damaged_stage_does_not_stop_the_estimate_of_others(tmp_path):
    stage, cache = Stage("sae", {}), StageCache(tmp_path)
    folder = cache.run(stage, Maker(), expected_seconds=1.0)
    (folder / "stage.json").write_text("{")
    assert StageCache(tmp_path).pace("sae") == 1.0
    assert not StageCache(tmp_path).has(stage)

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from monosem.core import artifacts, checkpoints
from monosem.core.checkpoints import (
    Checkpoints,
    State,
    optimizer_tensors,
    part_of,
    restore_optimizer,
    under,
)
from monosem.core.errors import InputError, MonosemError, Paused
from monosem.core.progress import SilentWatch

RUN = {"settings": {"lr": 0.1}, "seed": 3}


def saved(folder: Path, generations: int) -> Checkpoints:
    """Checkpoints whose tensor and fact `step` are the number of the save."""
    made = Checkpoints(folder, RUN)
    for step in range(1, generations + 1):
        made.save({"w": torch.full((4,), float(step))}, {"step": step})
    return made


def loaded(folder: Path) -> tuple[int | None, list[str]]:
    """The step of the checkpoint that is used, and what was told."""
    told: list[str] = []
    state = Checkpoints(folder, RUN, told.append).load()
    if state is None:
        return None, told
    assert torch.equal(state.tensors["w"], torch.full((4,), float(state.facts["step"])))
    return state.facts["step"], told


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated": truncate,
    "emptied": lambda path: path.write_bytes(b""),
    "flipped": flip,
    "missing": Path.unlink,
    "other": lambda path: path.write_text("[]"),
}


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "sae"
    assert Checkpoints(folder, RUN).load() is None
    saved(folder, 4)
    assert names(folder) == ["00000003", "00000004"]
    assert loaded(folder) == (4, [])


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", ["state.safetensors", "state.json", "checksums.json"])
def test_a_damaged_checkpoint_is_told_passed_over_and_removed_later(
    tmp_path: Path, damage: str, file: str
) -> None:
    saved(tmp_path, 3)
    DAMAGES[damage](tmp_path / "00000003" / file)
    assert loaded(tmp_path) == (2, [f"{tmp_path / '00000003'}: damaged, going on from the one before it"])

    resumed = Checkpoints(tmp_path, RUN)
    assert resumed.load() is not None
    assert names(tmp_path) == ["00000002", "00000003"]  # nothing goes before the next is complete
    resumed.save({"w": torch.full((4,), 3.0)}, {"step": 3})
    assert names(tmp_path) == ["00000002", "00000004"]
    assert loaded(tmp_path) == (3, [])


def test_where_all_are_damaged_the_loop_starts_anew(tmp_path: Path) -> None:
    saved(tmp_path, 2)
    for path in tmp_path.iterdir():
        flip(path / "state.safetensors")
    step, told = loaded(tmp_path)
    assert step is None
    assert len(told) == 2
    assert all("damaged, as are all before it, starting anew" in line for line in told)


def test_a_file_that_cannot_be_read_counts_as_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved(tmp_path, 2)
    digest = artifacts.hashlib.file_digest

    def bad_sector(stream: Any, name: str) -> Any:
        if "00000002" in stream.name:
            raise OSError(errno.EIO, "Input/output error", stream.name)
        return digest(stream, name)

    monkeypatch.setattr(artifacts.hashlib, "file_digest", bad_sector)
    assert loaded(tmp_path)[0] == 1


def test_a_full_disk_is_one_line_and_the_older_checkpoints_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saved(tmp_path, 2)

    def full(tensors: Any, path: Path) -> None:
        path.write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifacts, "save_file", full)
    with pytest.raises(MonosemError, match="the disk is full") as caught:
        made.save({"w": torch.zeros(4)}, {"step": 3})
    monkeypatch.undo()
    assert caught.value.exit_code == 1
    assert names(tmp_path) == ["00000001", "00000002"]
    assert loaded(tmp_path) == (2, [])
    made.save({"w": torch.full((4,), 3.0)}, {"step": 3})
    assert loaded(tmp_path) == (3, [])


class KilledError(BaseException):
    """Stands for a kill in the loops below: nothing after it runs, so what it leaves is on the disk."""


@pytest.mark.parametrize("moment", ["half written", "before its name", "before the old goes"])
def test_a_kill_inside_a_save_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    made = saved(tmp_path, 2)

    def killed(*arguments: Any, **keywords: Any) -> None:
        raise KilledError

    # A process that was killed cleans nothing up.
    monkeypatch.setattr(artifacts.shutil, "rmtree", lambda *arguments, **keywords: None)
    if moment == "half written":
        monkeypatch.setattr(checkpoints, "write_json_atomic", killed)
    elif moment == "before its name":
        rename = Path.rename
        monkeypatch.setattr(
            Path, "rename", lambda self, to: killed() if to.name.isdecimal() else rename(self, to)
        )
    else:
        monkeypatch.setattr(checkpoints.shutil, "rmtree", killed)
    with pytest.raises(KilledError):
        made.save({"w": torch.full((4,), 3.0)}, {"step": 3})
    monkeypatch.undo()

    complete = moment == "before the old goes"
    assert len(names(tmp_path)) == 3
    assert any(name.endswith(".draft") for name in names(tmp_path)) is not complete
    assert loaded(tmp_path) == (3 if complete else 2, [])
    assert not any(name.endswith(".draft") for name in names(tmp_path))
    saved(tmp_path, 1)
    assert len(names(tmp_path)) == 2


def test_a_checkpoint_of_another_run_or_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path, 2)
    for other in ({**RUN, "seed": 4}, {}, None):
        with pytest.raises(InputError, match="of other settings, seed or data; delete it"):
            Checkpoints(tmp_path, other).load()
    monkeypatch.setattr(checkpoints, "_FORMAT", "monosem-checkpoint-2")
    with pytest.raises(InputError, match="'monosem-checkpoint-1' is not monosem-checkpoint-2"):
        Checkpoints(tmp_path, RUN).load()


def test_every_bit_of_tensors_and_facts_comes_back(tmp_path: Path) -> None:
    random = torch.Generator().manual_seed(0)
    tensors = {
        "float": torch.randn(3, 5, generator=random).T,
        "odd": torch.tensor([math.nan, math.inf, -0.0]),
        "step": torch.tensor(7.0),
        "count": torch.tensor([2**62 + 1]),
        "wide": torch.randn(4, generator=random, dtype=torch.float64),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
    }
    facts = {"loss": 0.1 + 0.2, "tiny": 5e-324, "lost": math.nan, "top": math.inf, "nested": [{"epoch": 1}]}
    Checkpoints(tmp_path, RUN).save(tensors, facts)
    state = Checkpoints(tmp_path, RUN).load()
    assert state is not None
    assert json.dumps(state.facts) == json.dumps(facts)
    assert state.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert state.tensors[name].dtype == tensor.dtype
        assert torch.equal(state.tensors[name].isnan(), tensor.isnan())
        assert torch.equal(state.tensors[name].nan_to_num(), tensor.nan_to_num()), name


def test_without_a_folder_nothing_is_written_found_due_or_paused() -> None:
    nothing = Checkpoints(None, RUN)
    nothing.save({"w": torch.zeros(1)}, {})
    assert nothing.load() is None
    nothing.at_safe_point(PauseAlways(), lambda: State({}, {}))


class PauseAlways(SilentWatch):
    def should_pause(self) -> bool:
        return True


def test_checkpoints_are_due_half_a_minute_apart_and_fifty_times_what_one_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now)
    made = Checkpoints(tmp_path, RUN)
    now += 30.0
    assert not made.due()
    now += 0.1
    assert made.due()
    written: list[int] = []

    def slow(draft: Path, tensors: Any) -> None:
        nonlocal now
        now += 2.0

    monkeypatch.setattr(checkpoints, "save_tensors", slow)
    for _ in range(1201):
        now += 0.1
        made.at_safe_point(SilentWatch(), lambda: written.append(1) or State({}, {}))  # type: ignore[func-returns-value]
    assert len(written) == 2  # at once, and again after 50 x 2 s; one that is not due costs no copy
    with pytest.raises(Paused):
        made.at_safe_point(PauseAlways(), lambda: State({}, {"paused": True}))
    monkeypatch.undo()
    assert names(tmp_path)[-1] == "00000003"


@pytest.mark.parametrize("name", ["Adam", "SGD"])
def test_an_optimiser_goes_on_with_the_same_bits(name: str) -> None:
    def steps(weight: torch.Tensor, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for step in range(first, last):
            weight.grad = torch.sin(weight.detach() * (step + 1))
            optimizer.step()

    def make(weight: torch.Tensor) -> torch.optim.Optimizer:
        more = {"momentum": 0.9} if name == "SGD" else {}
        return getattr(torch.optim, name)([weight], lr=0.1, **more)  # type: ignore[no-any-return]

    whole = torch.linspace(-1, 1, 7)
    optimizer = make(whole)
    steps(whole, optimizer, 0, 3)
    tensors = {key: tensor.clone() for key, tensor in under("adam", optimizer_tensors(optimizer)).items()}
    resumed = whole.clone()
    steps(whole, optimizer, 3, 6)

    other = make(resumed)
    restore_optimizer(other, part_of("adam", {**tensors, "weights.0": torch.zeros(1)}))
    steps(resumed, other, 3, 6)
    assert torch.equal(resumed, whole)
    unlike = tensors["adam.0.momentum_buffer" if name == "SGD" else "adam.0.exp_avg"]
    assert not torch.equal(unlike, torch.zeros(7))


def test_moments_come_back_laid_out_as_their_parameters(tmp_path: Path) -> None:
    """Files hold tensors row by row; fused optimisers on a GPU want moments laid out as the weights."""

    def trained() -> tuple[torch.nn.Conv2d, torch.optim.Optimizer]:
        layer = torch.nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        optimizer = torch.optim.AdamW(layer.parameters())
        layer(torch.ones(2, 4, 5, 5).to(memory_format=torch.channels_last)).sum().backward()
        optimizer.step()
        return layer, optimizer

    layer, optimizer = trained()
    Checkpoints(tmp_path, "x").save(optimizer_tensors(optimizer), {})
    moments = optimizer.state[layer.weight]["exp_avg"]
    other, restored = trained()
    state = Checkpoints(tmp_path, "x").load()
    assert state is not None
    restore_optimizer(restored, state.tensors)
    back = restored.state[other.weight]["exp_avg"]
    assert back.stride() == moments.stride() == other.weight.stride()
    assert torch.equal(back, moments)

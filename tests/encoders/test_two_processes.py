"""Two processes must train like one on the joint batch."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from monosem.core.artifacts import load_tensors, read_json

SCRIPT = Path(__file__).with_name("two_processes.py")
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Folders with what one process and what two processes wrote."""
    folders = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    for folder, launch in zip(folders, ((), LAUNCH), strict=True):
        command = [sys.executable, *launch, str(SCRIPT), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("objective", ["simclr", "ncl"])
@pytest.mark.parametrize("how", ["whole", "pieces"])
def test_gradients_are_those_of_one_process_on_the_joint_batch(
    how: str, objective: str, outcomes: tuple[Path, Path]
) -> None:
    one, two = (load_tensors(folder / f"{objective}-{how}.safetensors") for folder in outcomes)
    assert one.keys() == two.keys()
    assert any(float(value.norm()) > 1e-3 for value in one.values())
    for name, expected in one.items():
        torch.testing.assert_close(two[name], expected, rtol=1e-5, atol=1e-9, msg=name)


def test_a_whole_training_follows_that_of_one_process(outcomes: tuple[Path, Path]) -> None:
    one, two = (read_json(folder / "history.json") for folder in outcomes)
    assert [epoch["loss"] for epoch in two] == pytest.approx([epoch["loss"] for epoch in one], rel=1e-3)
    assert [e["alignment"] for e in two] == pytest.approx([e["alignment"] for e in one], rel=1e-3)


def test_every_process_holds_the_same_encoder_order_and_noise(outcomes: tuple[Path, Path]) -> None:
    main, other = (load_tensors(outcomes[1] / f"encoder-{rank}.safetensors") for rank in (0, 1))
    for name, value in main.items():
        assert torch.equal(value, other[name]), name
    for what in ("labels", "order"):
        said = [read_json(outcomes[1] / f"{what}-{rank}.json") for rank in (0, 1)]
        assert said[0] == said[1] == read_json(outcomes[0] / f"{what}-0.json")


@pytest.mark.parametrize("activation", ["topk", "batch_topk", "jump_relu", "relu"])
def test_saes_learn_from_the_joint_batch(activation: str, outcomes: tuple[Path, Path]) -> None:
    one, two = (load_tensors(folder / f"sae-{activation}-0.safetensors") for folder in outcomes)
    other = load_tensors(outcomes[1] / f"sae-{activation}-1.safetensors")
    for name, expected in one.items():
        assert torch.equal(two[name], other[name]), name
        if activation != "batch_topk":  # which takes the largest of each process's part
            torch.testing.assert_close(two[name], expected, rtol=1e-9, atol=1e-9, msg=name)


def test_every_process_has_left_the_group_before_python_ends(outcomes: tuple[Path, Path]) -> None:
    assert [read_json(outcomes[1] / f"left-{rank}.json") for rank in (0, 1)] == [True, True]

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from monosem.core.distributed import World
from monosem.data.datasets import ImageDataset
from monosem.data.view_batches import view_batches
from monosem.data.views import ViewSettings
from monosem.encoders.backbones import Encoder, build_encoder
from monosem.encoders.contrastive_step import ContrastiveStep
from monosem.encoders.optim import OPTIMIZERS
from monosem.encoders.pretrain_settings import PretrainSettings, objective_loss
from monosem.encoders.readings import EpochReadings

CPU = World(0, 1, torch.device("cpu"))

# On a GPU each of these waits for the device: it brings a value to Python, or a size that depends on values.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique", "bincount", "is_nonzero")


class Noting(TorchDispatchMode):
    """Notes the operations that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.__name__.split(".")[0]
        booleans = any(
            isinstance(index, torch.Tensor) and index.dtype == torch.bool
            for arg in args
            if isinstance(arg, list | tuple)
            for index in arg
        )
        self.total += 1
        if name in WAITS or (name.startswith("index") and booleans):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


def step_of(encoder: Encoder, settings: PretrainSettings, parts: int = 1) -> ContrastiveStep:
    optimizer = OPTIMIZERS[settings.optimizer](encoder, 1.0, settings.weight_decay)
    loss = objective_loss(settings, encoder)
    return ContrastiveStep(encoder, optimizer, loss, parts=parts, bf16=False, compiled=False, world=CPU)


@pytest.mark.parametrize("objective", ["simclr", "ncl"])
@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_no_operation_of_a_step_waits_for_the_device(
    optimizer: str, objective: str, few_digits: ImageDataset, tiny: PretrainSettings
) -> None:
    settings = tiny.replace(objective=objective, optimizer=optimizer, views=ViewSettings())
    encoder = build_encoder(settings.encoder, 1, 0, settings.output).train()
    step, readings = step_of(encoder, settings), EpochReadings(32, CPU.device)
    rows = list(torch.arange(192).split(64))
    views = view_batches(
        few_digits.images, rows, settings.views, torch.Generator().manual_seed(0), crops=(0, 0)
    )
    counts = []
    for _ in range(3):  # the first step also sets things up
        with Noting() as noting:
            loss, z = step(next(views), 1e-3)
            readings.add(loss, encoder.features(z))
        counts.append(noting.total)
    assert noting.waits == []
    assert counts[1] == counts[2] > 100


def test_the_operations_of_a_step_do_not_grow_with_the_batch(
    few_digits: ImageDataset, tiny: PretrainSettings
) -> None:
    """No Python runs per image."""
    counts = []
    for size in (16, 128):
        encoder = build_encoder(tiny.encoder, 1, 0, tiny.output).train()
        step = step_of(encoder, tiny)
        generator = torch.Generator().manual_seed(0)
        rows = [torch.arange(size)] * 2
        views = view_batches(few_digits.images, rows, ViewSettings(), generator, crops=(0, 0))
        step(next(views), 1e-3)
        with Noting() as noting:
            step(next(views), 1e-3)
        counts.append(noting.total)
    assert counts[0] == counts[1]


def test_the_noting_above_notes_what_would_wait() -> None:
    x = torch.arange(4.0)
    with Noting() as noting:
        float(x.sum())
        x[x > 1]
    assert noting.waits[0] == "_local_scalar_dense"
    assert len(noting.waits) >= 2


@pytest.mark.parametrize("objective", ["simclr", "ncl"])
def test_pieces_give_the_gradients_of_the_whole_batch_where_norms_stand_still(
    objective: str, tiny: PretrainSettings
) -> None:
    settings = tiny.replace(objective=objective)
    views = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gradients, losses = [], []
    for parts in (1, 3):
        encoder = build_encoder(settings.encoder, 1, 0, settings.output).double().eval()
        loss, z = step_of(encoder, settings, parts)(views, 0.1)
        gradients.append([p.grad for p in encoder.parameters()])
        losses.append((loss, z))
    torch.testing.assert_close(losses[0], losses[1])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-9, atol=1e-12)


def test_pieces_count_each_image_once_in_the_running_statistics(tiny: PretrainSettings) -> None:
    views = torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    encoder = build_encoder(tiny.encoder, 1, 0, tiny.output).train()
    step_of(encoder, tiny, parts=3)(views, 0.1)
    counted = [value for name, value in encoder.state_dict().items() if "num_batches" in name]
    assert counted
    assert all(int(value) == 3 for value in counted)

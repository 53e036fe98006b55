"""The contrastive pretraining loop: images -> an encoder, with SimCLR or non-negative contrastive learning.

Labels are never read. The state at an epoch's end (weights, optimiser, history) determines everything that
follows, because order and augmentations of each epoch come from streams of their own.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from monosem.core.artifacts import (
    atomic_folder,
    load_tensors,
    read_json,
    save_tensors,
    verify_folder,
    write_json_atomic,
)
from monosem.core.errors import InputError
from monosem.core.nonlinearities import NonlinearityName
from monosem.core.progress import SILENT, Watch
from monosem.core.seeding import torch_stream
from monosem.core.settings import Settings
from monosem.data.datasets import ImageDataset
from monosem.data.views import ViewSettings, two_views
from monosem.encoders.backbones import Encoder, EncoderSettings, OutputSettings, build_encoder
from monosem.encoders.collapse import EpochReadings, explain_collapse
from monosem.encoders.contrastive_loss import NonnegativeOn, nonnegative_nt_xent, nt_xent
from monosem.encoders.optim import OPTIMIZERS, OptimizerName, warmup_cosine

_SECONDS_BETWEEN_CHECKPOINTS = 30.0
_WORTH_A_WORD = 0.5  # share of dead dimensions that a user should hear of at once


class PretrainSettings(Settings):
    """One pretraining. The defaults are the paper's for CIFAR (A.1, A.2 and its published configuration).

    `nonlinearity` and `nonnegative_on` concern objective ncl alone.
    """

    objective: Literal["simclr", "ncl"] = "simclr"
    encoder: EncoderSettings = EncoderSettings()
    nonlinearity: NonlinearityName = "rep_relu"
    nonnegative_on: NonnegativeOn = "normalised"
    minus_mean_abs: bool = False
    """Subtract mean |feature| from the NCL loss, as the published code does and the paper does not say."""
    epochs: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images per step; the loss sees two views of each. Images beyond the last full batch wait an epoch."""
    optimizer: OptimizerName = "lars"
    lr_per_256: Annotated[float, Field(gt=0)] = 0.4
    """Peak learning rate for 256 images a step; used times batch_size / 256."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    warmup_epochs: Annotated[float, Field(ge=0)] = 10.0
    temperature: Annotated[float, Field(gt=0)] = 0.2
    views: ViewSettings = ViewSettings()
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 autocast on a GPU, fp32 on a CPU."""
    compile: Literal["auto", "on", "off"] = "auto"
    """auto: torch.compile on a GPU."""
    channels_last: bool = True

    @property
    def output(self) -> OutputSettings:
        """How this objective makes features of projector outputs."""
        if self.objective == "simclr":
            return OutputSettings()
        return OutputSettings(nonlinearity=self.nonlinearity, nonnegative_on=self.nonnegative_on)


@dataclass(frozen=True)
class Pretrained:
    """A trained encoder (on the CPU, evaluation mode) and one dict of readings per epoch."""

    encoder: Encoder
    history: list[dict[str, float]]


def pretrain(
    train: ImageDataset,
    settings: PretrainSettings,
    seed: int,
    *,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    watch: Watch = SILENT,
) -> Pretrained:
    """Train an encoder on the images of `train`; its labels are not read.

    `checkpoint` names a folder that is written at epoch ends, at most every half minute and whenever
    `watch` wants to pause, and found again by the same call, which then goes on from there; on a CPU the
    weights are bit-identical to an uninterrupted run's. The caller removes it.

    Raises:
        InputError: fewer images than a batch, a checkpoint of another run, or training that collapsed,
            diverged or does not learn; the message says which setting to change.
        Paused: `watch` ended the run at a checkpoint.
    """
    steps = len(train) // settings.batch_size
    if steps == 0:
        raise InputError(f"batch_size {settings.batch_size} is more than the {len(train)} training images")
    device = torch.device(device)
    encoder = build_encoder(settings.encoder, train.images.shape[1], seed, settings.output).to(device)
    lr = settings.lr_per_256 * settings.batch_size / 256
    optimizer = OPTIMIZERS[settings.optimizer](encoder, lr, settings.weight_decay)
    identity = {"settings": settings.model_dump(mode="json"), "seed": seed, "data": train.fingerprint}
    history: list[dict[str, float]] = []
    if checkpoint is not None and checkpoint.exists():
        history = _load_checkpoint(checkpoint, encoder, optimizer, identity)

    images = train.images.to(device)
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in (train.mean, train.std))
    forward = torch.compile(encoder) if _switched_on(settings.compile, device) else encoder
    loss_of = _objective(settings, encoder)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    total_steps = steps * settings.epochs
    warmup_steps = round(steps * settings.warmup_epochs)
    saved_at = time.monotonic()

    encoder.train()
    for epoch in range(len(history), settings.epochs):
        order = torch.randperm(len(train), generator=torch_stream(seed, "order", epoch)).to(device)
        augment = torch_stream(seed, "augment", epoch, device=device)
        readings = EpochReadings(settings.encoder.projector_out, device)
        latest = history[-1] if history else {}
        for step in range(steps):
            done = epoch * steps + step
            for group in optimizer.param_groups:
                group["lr"] = lr * warmup_cosine(done, warmup_steps, total_steps)
            rows = order[step * settings.batch_size : (step + 1) * settings.batch_size]
            views = (torch.cat(two_views(images[rows], settings.views, augment)) - mean) / std
            if settings.channels_last:
                views = views.contiguous(memory_format=torch.channels_last)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                z = forward(views)
            loss = loss_of(*z.chunk(2))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            # The first half of an epoch would count dimensions alive that died during it.
            readings.add(loss.detach(), encoder.features(z.detach().float()) if 2 * step >= steps else None)
            watch.progress(done + 1, total_steps, **latest)
        history.append(readings.summary(settings.batch_size))
        problem = explain_collapse(
            history[-1],
            trained_for_a_while=epoch + 1 >= settings.warmup_epochs + 2,
            non_negative=settings.objective == "ncl",
        )
        if problem is not None:
            raise InputError(f"pretraining with {settings.objective}, epoch {epoch + 1}: {problem}")
        dead = history[-1]["dead_share"]
        if dead > _WORTH_A_WORD and all(earlier["dead_share"] <= _WORTH_A_WORD for earlier in history[:-1]):
            watch.notice(f"{settings.objective}, epoch {epoch + 1}: {dead:.0%} of the dimensions are dead")
        if checkpoint is not None:
            pausing = watch.should_pause()
            if pausing or time.monotonic() - saved_at > _SECONDS_BETWEEN_CHECKPOINTS:
                _save_checkpoint(checkpoint, encoder, optimizer, identity, history)
                saved_at = time.monotonic()
            if pausing:
                watch.check()
    return Pretrained(encoder.to("cpu").eval(), history)


def _switched_on(choice: Literal["auto", "on", "off"], device: torch.device) -> bool:
    return choice == "on" or (choice == "auto" and device.type == "cuda")


def _objective(settings: PretrainSettings, encoder: Encoder) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of the two views' projector outputs, each [N, D]."""
    if settings.objective == "simclr":
        return lambda z0, z1: nt_xent(z0, z1, settings.temperature)

    def ncl(z0: Tensor, z1: Tensor) -> Tensor:
        loss = nonnegative_nt_xent(
            z0, z1, settings.temperature, settings.nonlinearity, settings.nonnegative_on
        )
        if settings.minus_mean_abs:
            loss = loss - encoder.features(torch.cat([z0, z1]).float()).abs().mean()
        return loss

    return ncl


def _save_checkpoint(
    path: Path,
    encoder: Encoder,
    optimizer: torch.optim.Optimizer,
    identity: dict[str, object],
    history: list[dict[str, float]],
) -> None:
    tensors = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    with atomic_folder(path) as draft:
        save_tensors(draft / "state.safetensors", tensors)
        write_json_atomic(draft / "progress.json", {"run": identity, "history": history})


def _load_checkpoint(
    path: Path, encoder: Encoder, optimizer: torch.optim.Optimizer, identity: dict[str, object]
) -> list[dict[str, float]]:
    """Put the saved state into the encoder and the optimiser; returns the history up to there."""
    verify_folder(path)
    progress = read_json(path / "progress.json")
    if progress["run"] != identity:
        raise InputError(f"{path}: a checkpoint of other settings, seed or data; delete it")
    weights: dict[str, Tensor] = {}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(path / "state.safetensors").items():
        owner, rest = name.split(".", 1)
        if owner == "encoder":
            weights[rest] = tensor
        else:
            index, key = rest.split(".", 1)
            state.setdefault(int(index), {})[key] = tensor
    encoder.load_state_dict(weights)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    history: list[dict[str, float]] = progress["history"]
    return history

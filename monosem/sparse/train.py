"""Training SAEs on cached features: epochs, checkpoints, when to stop."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.core.checkpoints import Checkpoints, State, part_of, under
from monosem.core.distributed import World
from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Watch
from monosem.data.rows import Inputs, spread_rows, take_rows
from monosem.data.windows import WINDOW_BYTES, RowBatches
from monosem.measures.blocks import BLOCK_ROWS, features_shape
from monosem.sparse.evaluate import fvu
from monosem.sparse.initialise import Start, initialise, starting_point
from monosem.sparse.inputs import fingerprint
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.trainer import Trainer

_SHARED = ("input_norm", "b_pre_init", "epochs", "batch_size")
"""Settings that SAEs trained together have in common."""

_COUNTED_ROWS, _STRETCH = 2**20, 64
"""So many rows say which latents fire; of larger sets stretches are looked at, evenly spaced."""


def fit_sae(
    features: Inputs,
    settings: SAESettings | None = None,
    *,
    seed: int = 0,
    held_out: Inputs | None = None,
    window_bytes: int = WINDOW_BYTES,
    checkpoint: Path | str | None = None,
    device: torch.device | str = "cpu",
    world: World | None = None,
    watch: Watch = SILENT,
) -> SAE:
    """Train an SAE on features `[N, D]`; the same seed and form of products give the same bits on the CPU.

    Args:
        held_out: other features `[M, D]`, whose FVU is read after each epoch; needed for
            `settings.patience`, which ends the training early and keeps the best SAE.
        window_bytes: memory for features on disk; what does not fit is shuffled within windows of this size.
        checkpoint: folder in which the state is kept, now and then and whenever `watch` wants to pause; the
            same call finds it there and goes on, on the CPU to the same bits. The caller removes it.
        world: processes that share each batch; all of them make this call and get the same SAE.

    Raises:
        InputError: NaN or infinite features, features without any spread, k above the latents, patience
            without held-out features, or a checkpoint of other features, settings or seed.
        Paused: `watch` ended the training and the state is in `checkpoint`.
    """
    (sae,) = fit_saes(
        features,
        [settings or SAESettings()],
        seed=seed,
        held_out=held_out,
        window_bytes=window_bytes,
        checkpoint=checkpoint,
        device=device,
        world=world,
        watch=watch,
    )
    return sae


def check_variants(variants: Sequence[SAESettings], dim: int, held_out: Inputs | None) -> None:
    """Raise InputError where `fit_saes` would, without taking memory for weights."""
    for name in _SHARED:
        if any(getattr(settings, name) != getattr(variants[0], name) for settings in variants):
            raise InputError(f"sae.{name}: SAEs that are trained together have one; train the others apart")
    if held_out is None and any(settings.patience is not None for settings in variants):
        raise InputError("sae.patience needs held-out features to watch; give held_out, or leave it out")
    if held_out is not None and (columns := features_shape(held_out)[1]) != dim:
        raise InputError(f"held-out features have {columns} columns, the others {dim}")
    with torch.device("meta"):
        for settings in variants:
            SAE(dim, settings)


@torch.no_grad()
def fit_saes(
    features: Inputs,
    variants: Sequence[SAESettings],
    *,
    seed: int = 0,
    init_seeds: Sequence[int] | None = None,
    held_out: Inputs | None = None,
    start: Start | None = None,
    window_bytes: int = WINDOW_BYTES,
    checkpoint: Path | str | None = None,
    device: torch.device | str = "cpu",
    world: World | None = None,
    watch: Watch = SILENT,
) -> list[SAE]:
    """Train several SAEs on the same batches, so that features are read once an epoch for all.

    Each comes out as `fit_sae` would make it, whose arguments and errors these are; InputError too when
    variants differ in epochs, batch size, normalisation or where b_pre begins. Where some diverge, the others
    go on, and a notice says so.

    Args:
        init_seeds: of each variant's first dictionary; None: `seed`, from which the order of the batches
            follows in any case.
        start: `starting_point` of the features and a variant, for those who have it already.
    """
    shared = variants[0]
    n_rows, dim = features_shape(features)
    check_variants(variants, dim, held_out)
    start = start or starting_point(features, shared)
    saes = [SAE(dim, settings) for settings in variants]
    trained_on = fingerprint(features)
    identity = {
        "settings": [settings.model_dump(mode="json") for settings in variants],
        "seed": seed,
        "features": trained_on,
    }
    if held_out is not None and any(settings.patience is not None for settings in variants):
        identity["held_out"] = fingerprint(held_out)
    of_inits = [seed] * len(variants) if init_seeds is None else list(init_seeds)
    if of_inits != [seed] * len(variants):
        identity["init_seeds"] = of_inits
    part = (0, 1) if world is None else (world.rank, world.size)
    batches = RowBatches(features, shared.batch_size, seed=seed, window_bytes=window_bytes, part=part)
    if batches.n_windows > 1 and window_bytes != WINDOW_BYTES:
        identity["window_bytes"] = window_bytes
    checkpoints = Checkpoints(None if checkpoint is None else Path(checkpoint), identity, watch.notice)
    earlier = checkpoints.load()
    total = shared.epochs * batches.n_batches
    for sae, init_seed in zip(saes, of_inits, strict=True):
        sae.trained_on = trained_on
        initialise(sae, start, init_seed)
    fits = [_Fit(Trainer(sae.to(device), start.variance, total, world, watch), world) for sae in saes]
    done = 0
    if earlier is not None:
        done = earlier.facts["done"]
        for number, fit in enumerate(fits):
            fit.restore(part_of(str(number), earlier.tensors), earlier.facts["fits"][number])

    def state() -> State:
        tensors: dict[str, Tensor] = {}
        for number, fit in enumerate(fits):
            tensors |= under(str(number), fit.tensors())
        return State(tensors, {"done": done, "fits": [fit.facts() for fit in fits]})

    for epoch in range(done // batches.n_batches, shared.epochs):
        for rows in batches.epoch(epoch, first=done - epoch * batches.n_batches):
            for fit in fits:
                if not fit.is_over():
                    fit.trainer.step(rows)
            done += 1
            if done % batches.n_batches == 0:
                for fit in fits:
                    if not fit.is_over():
                        fit.end_epoch(epoch + 1, held_out, start.mean, watch)
                watch.progress(epoch + 1, shared.epochs, **_shown(fits))
            checkpoints.at_safe_point(watch, state, world)
        if all(fit.is_over() for fit in fits):
            break
    if all(fit.has_diverged for fit in fits):
        rates = ", ".join(f"{rate:g}" for rate in sorted({fit.rate for fit in fits}))
        raise InputError(f"sae.lr: the training diverged at a learning rate of {rates}; lower it")
    for fit in fits:
        fit.keep_best()
    for some in torch.split(spread_rows(n_rows, _COUNTED_ROWS, _STRETCH), BLOCK_ROWS):
        rows = take_rows(features, some)
        for sae in saes:
            sae.firing_counts += sae.active_counts(rows.to(device))
    return [sae.cpu() for sae in saes]


class _Fit:
    """One of the SAEs in training: its steps, its history, and the best that held-out features have seen."""

    def __init__(self, trainer: Trainer, world: World | None) -> None:
        self.trainer, self.sae, self._world = trainer, trainer.sae, world
        self._best: dict[str, Tensor] = {}

    @property
    def rate(self) -> float:
        """Peak learning rate."""
        return self.sae.settings.rate(self.sae.n_latents)

    @property
    def has_diverged(self) -> bool:
        """Whether there are no numbers in it any more, and were none to keep."""
        history = self.sae.history
        return bool(history) and not math.isfinite(history[-1]["loss"]) and not self._best

    def end_epoch(self, epoch: int, held_out: Inputs | None, mean: Tensor, watch: Watch) -> None:
        readings: dict[str, Any] = {"epoch": epoch, **self.trainer.readings()}
        if held_out is not None:
            readings["fvu"] = self._fvu(held_out, mean)
            if self._watched([readings]) and readings["fvu"] < _least(self._watched(self.sae.history)):
                self._best = {name: tensor.clone() for name, tensor in self.sae.state_dict().items()}
        self.sae.history.append(readings)
        watch.record("epoch", of="sae", form=self.trainer.form, **readings)
        if self.has_diverged:
            watch.notice(f"an SAE diverged in epoch {epoch}, at a learning rate of {self.rate:g} (sae.lr)")

    def is_over(self) -> bool:
        """Whether it diverged, or no one of the last `patience` epochs was better than all before them."""
        if self.has_diverged:
            return True
        patience, values = self.sae.settings.patience, self._watched(self.sae.history)
        if patience is None or len(values) <= patience:
            return False
        return _least(values[-patience:]) >= _least(values[:-patience])

    def _fvu(self, held_out: Inputs, mean: Tensor) -> float:
        # One process reads for all: what they decide by must be the same to the bit.
        if self._world is None:
            return fvu(self.sae, held_out, mean)
        return self._world.from_main(lambda: fvu(self.sae, held_out, mean))

    def _watched(self, history: Sequence[dict[str, Any]]) -> list[float]:
        """The FVUs that `patience` goes by: not of epochs in which k was still on its way."""
        settings = self.sae.settings
        if settings.patience is None:
            return []
        on_the_way = settings.epochs * settings.k_warmup if settings.k_start is not None else 0
        return [readings["fvu"] for readings in history if readings["epoch"] > on_the_way]

    def keep_best(self) -> None:
        if self._best:
            self.sae.load_state_dict(self._best)

    def tensors(self) -> dict[str, Tensor]:
        return {**self.trainer.tensors(), **under("best", self._best)}

    def facts(self) -> dict[str, Any]:
        return {"trainer": self.trainer.facts(), "history": self.sae.history}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        self.trainer.restore(tensors, facts["trainer"])
        self._best, self.sae.history = part_of("best", tensors), facts["history"]


def _least(values: Sequence[float]) -> float:
    """The least of them; what is no number is none."""
    return min((value for value in values if not math.isnan(value)), default=math.inf)


def _shown(fits: Sequence[_Fit]) -> dict[str, float]:
    """Readings beside the progress: of one SAE, or the means of several."""
    last = [fit.sae.history[-1] for fit in fits]
    return {
        name: sum(some[name] for some in last) / len(last)
        for name in ("loss", "dead", "fvu")
        if name in last[0]
    }

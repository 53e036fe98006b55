"""Training a TopK SAE on cached features, and how much of them it explains.

The gradients are written out instead of left to autograd: a step is six matrix products, and nothing else
in it is worth a graph. Sources: Gao et al. 2024, section 2 and appendix A.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from monosem.core.checkpoints import (
    Checkpoints,
    State,
    optimizer_tensors,
    part_of,
    restore_optimizer,
    under,
)
from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Watch
from monosem.core.seeding import torch_stream
from monosem.encoders.optim import warmup_cosine
from monosem.measures.blocks import Features, features_shape, row_blocks
from monosem.sparse.initialise import initialise
from monosem.sparse.inputs import Inputs, fingerprint, take_rows
from monosem.sparse.kernels import topk_relu
from monosem.sparse.sae import SAESettings, SparseAutoencoder

_ADAM_EPS = 6.25e-10  # Gao et al., appendix A.3: gradients of rare latents are small
_LR_TIMES_ROOT_DIM = 0.1


@dataclass(frozen=True)
class Step:
    """What one batch says: losses (0-d), which latents were active `[L]`; gradients are on the parameters."""

    loss: Tensor
    aux_loss: Tensor
    active: Tensor


@torch.no_grad()
def fit_sae(
    features: Inputs,
    settings: SAESettings | None = None,
    *,
    seed: int = 0,
    checkpoint: Path | None = None,
    device: torch.device | str = "cpu",
    watch: Watch = SILENT,
) -> SparseAutoencoder:
    """Train an SAE on features `[N, D]`; the same seed gives the same bits on the CPU.

    `checkpoint` names a folder in which the state is kept, now and then and whenever `watch` wants to pause;
    the same call finds it there and goes on, on the CPU to the same bits. The caller removes it.

    Raises:
        InputError: NaN or infinite features, features without any spread, k above the latents, or a
            checkpoint of other features, settings or seed.
        Paused: `watch` ended the training and the state is in `checkpoint`.
    """
    n_rows, dim = features_shape(features)
    settings = settings or SAESettings()
    sae = SparseAutoencoder(dim, settings)
    sae.trained_on = fingerprint(features)
    identity = {"settings": settings.model_dump(mode="json"), "seed": seed, "features": sae.trained_on}
    checkpoints = Checkpoints(checkpoint, identity, watch.notice)
    earlier = checkpoints.load()
    variance = initialise(sae, features, seed) if earlier is None else float(earlier.facts["variance"])
    sae.to(device)
    lr = settings.lr or _LR_TIMES_ROOT_DIM / dim**0.5
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, betas=settings.betas, eps=_ADAM_EPS, fused=True)
    n_batches = -(-n_rows // settings.batch_size)
    total = settings.epochs * n_batches
    idle = torch.zeros(sae.n_latents, dtype=torch.int64, device=device)
    losses = torch.zeros(2, dtype=torch.float64, device=device)  # sums over the epoch at work
    done = 0
    if earlier is not None:
        done, sae.history = earlier.facts["done"], earlier.facts["history"]
        sae.load_state_dict(part_of("sae", earlier.tensors))
        restore_optimizer(optimizer, part_of("optimizer", earlier.tensors))
        idle.copy_(earlier.tensors["idle"])
        losses.copy_(earlier.tensors["losses"])

    def state() -> State:
        tensors = {**under("sae", sae.state_dict()), **under("optimizer", optimizer_tensors(optimizer))}
        facts = {"done": done, "history": sae.history, "variance": variance}
        return State({**tensors, "idle": idle, "losses": losses}, facts)

    for rows in _batches(n_rows, n_batches, settings.epochs, seed, done):
        z = sae.normalise(take_rows(features, rows).to(device))
        reading = gradients(sae, z, torch.nonzero(idle >= settings.dead_after)[:, 0], variance)
        remove_radial_gradient(sae)
        for group in optimizer.param_groups:
            group["lr"] = lr * warmup_cosine(done, int(settings.warmup * total), total)
        optimizer.step()
        sae.decoder.div_(sae.decoder.norm(dim=1, keepdim=True))
        idle.add_(len(rows)).masked_fill_(reading.active, 0)
        losses += torch.stack([reading.loss, reading.aux_loss]) * (len(rows) / n_rows)
        done += 1
        if done % n_batches == 0:
            loss, aux_loss = losses.tolist()
            losses.zero_()
            dead = int((idle >= settings.dead_after).sum())
            readings = {"epoch": done // n_batches, "loss": loss, "aux_loss": aux_loss, "dead": dead}
            sae.history.append(readings)
            watch.record("epoch", of="sae", **readings)
            watch.progress(done // n_batches, settings.epochs, loss=loss, dead=dead)
        checkpoints.at_safe_point(watch, state)
    sae.firing_counts.copy_(_firing_counts(sae, features))
    return sae.cpu()


def gradients(sae: SparseAutoencoder, z: Tensor, dead: Tensor, variance: float) -> Step:
    """Set the gradient of every parameter for one batch of normalised inputs `[B, D]`.

    loss = mean (z - z_hat)^2 / variance, with the variance of the whole training set, so that it is the
    batch's part of the FVU. To it comes aux_coef times AuxK (Gao et al., A.2): the residual, detached and
    without b_pre, modelled by the `dead` latents `[n_dead]` (indices) and measured in units of its own
    variance.
    """
    settings = sae.settings
    pre = sae.pre_activations(z)
    codes = topk_relu(pre, sae.k)
    active = codes > 0
    excess = torch.addmm(sae.b_pre, codes, sae.decoder).sub_(z)
    loss = excess.square().mean() / variance
    d_reconstruction = excess * (2 / (excess.numel() * variance))
    d_decoder = codes.T @ d_reconstruction
    d_pre = (d_reconstruction @ sae.decoder.T).mul_(active)
    aux_loss = torch.zeros_like(loss)
    if len(dead) and settings.aux_coef > 0:
        aux_codes = topk_relu(pre[:, dead], settings.aux_k or max(1, sae.dim // 2))
        # excess is minus the residual, so this is the auxiliary reconstruction minus the residual.
        aux_excess = aux_codes @ sae.decoder[dead] + excess
        spread = (excess - excess.mean(dim=0)).square().sum()
        per_spread = torch.where(spread > 0, 1 / spread, 0.0)  # a batch of one row has none
        aux_loss = aux_excess.square().sum() * per_spread
        d_aux = aux_excess * (2 * settings.aux_coef * per_spread)
        d_decoder.index_add_(0, dead, aux_codes.T @ d_aux)
        d_pre.index_add_(1, dead, (d_aux @ sae.decoder[dead].T).mul_(aux_codes > 0))
    sae.decoder.grad = d_decoder
    sae.encoder.grad = d_pre.T @ (z - sae.b_pre)
    sae.encoder_bias.grad = d_pre.sum(dim=0)
    sae.b_pre.grad = d_reconstruction.sum(dim=0) - sae.encoder_bias.grad @ sae.encoder
    return Step(loss, aux_loss, active.any(dim=0))


def fvu(sae: SparseAutoencoder, features: Features, mean_train: Tensor) -> float:
    """Fraction of variance unexplained: sum |x - x_hat|^2 / sum |x - mean_train|^2 over all rows `[N, D]`.

    Args:
        mean_train: mean of the training features `[D]`.

    Raises:
        InputError: every row equals the mean, so that there is no variance to explain.
    """
    device = sae.b_pre.device
    mean = mean_train.double().cpu()
    unexplained = spread = 0.0
    for _, block in row_blocks(features):
        reconstruction = sae(block.to(device)).cpu()
        unexplained += float((block.cpu().double() - reconstruction).square().sum())
        spread += float((block.cpu().double() - mean).square().sum())
    if spread == 0:
        raise InputError("FVU is undefined: every row of the features equals the training mean")
    return unexplained / spread


def remove_radial_gradient(sae: SparseAutoencoder) -> None:
    """Take from each decoder row's gradient what would only change its length, which is fixed at 1."""
    gradient = sae.decoder.grad
    if gradient is not None:
        gradient.sub_((gradient * sae.decoder).sum(dim=1, keepdim=True) * sae.decoder)


def _batches(n_rows: int, n_batches: int, epochs: int, seed: int, first: int) -> Iterator[Tensor]:
    """The rows of every batch from number `first` on; the order of each epoch has a stream of its own."""
    for epoch in range(first // n_batches, epochs):
        order = torch.randperm(n_rows, generator=torch_stream(seed, "sae", "order", epoch))
        yield from order.tensor_split(n_batches)[max(0, first - epoch * n_batches) :]


def _firing_counts(sae: SparseAutoencoder, features: Features) -> Tensor:
    counts = torch.zeros_like(sae.firing_counts)
    for _, block in row_blocks(features):
        counts += (sae.encode(block.to(counts.device)) > 0).sum(dim=0)
    return counts

"""Training a TopK SAE on cached features, and how much of them it explains.

The gradients are written out instead of left to autograd: a step is six matrix products, and nothing else
in it is worth a graph. Sources: Gao et al. 2024, section 2 and appendix A.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

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
    device: torch.device | str = "cpu",
    watch: Watch = SILENT,
) -> SparseAutoencoder:
    """Train an SAE on features `[N, D]`; the same seed gives the same bits on the CPU.

    Raises:
        InputError: NaN or infinite features, features without any spread, or k above the latents.
    """
    n_rows, dim = features_shape(features)
    settings = settings or SAESettings()
    sae = SparseAutoencoder(dim, settings)
    variance = initialise(sae, features, seed)
    sae.to(device)
    lr = settings.lr or _LR_TIMES_ROOT_DIM / dim**0.5
    optimizer = torch.optim.Adam(sae.parameters(), lr=lr, betas=settings.betas, eps=_ADAM_EPS, fused=True)
    n_batches = -(-n_rows // settings.batch_size)
    total = settings.epochs * n_batches
    idle = torch.zeros(sae.n_latents, dtype=torch.int64, device=device)
    step = 0
    for epoch in range(settings.epochs):
        order = torch.randperm(n_rows, generator=torch_stream(seed, "sae", "order", epoch))
        losses = torch.zeros(2, dtype=torch.float64, device=device)
        for rows in order.tensor_split(n_batches):
            z = sae.normalise(take_rows(features, rows).to(device))
            reading = gradients(sae, z, torch.nonzero(idle >= settings.dead_after)[:, 0], variance)
            remove_radial_gradient(sae)
            for group in optimizer.param_groups:
                group["lr"] = lr * warmup_cosine(step, int(settings.warmup * total), total)
            optimizer.step()
            sae.decoder.div_(sae.decoder.norm(dim=1, keepdim=True))
            idle.add_(len(rows)).masked_fill_(reading.active, 0)
            losses += torch.stack([reading.loss, reading.aux_loss]) * (len(rows) / n_rows)
            step += 1
        loss, aux_loss = losses.tolist()
        dead = int((idle >= settings.dead_after).sum())
        sae.history.append({"epoch": epoch + 1, "loss": loss, "aux_loss": aux_loss, "dead": dead})
        watch.progress(epoch + 1, settings.epochs, loss=loss, dead=dead)
    sae.trained_on = fingerprint(features)
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


def _firing_counts(sae: SparseAutoencoder, features: Features) -> Tensor:
    counts = torch.zeros_like(sae.firing_counts)
    for _, block in row_blocks(features):
        counts += (sae.encode(block.to(counts.device)) > 0).sum(dim=0)
    return counts

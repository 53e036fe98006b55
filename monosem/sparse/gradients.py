"""One batch of an SAE's training: its losses, and the gradient of every parameter.

Written out instead of left to autograd, so that decoding and all gradients of weights can work on the codes
alone: only the encoder's outputs exist for every latent. Sources: Gao et al. 2024, section 2 and appendix A;
Bussmann et al. 2025 for prefixes ("Learning multi-level features with Matryoshka sparse autoencoders").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from monosem.sparse.activations import Total, Whole, alone
from monosem.sparse.batch_codes import BatchCodes, DenseCodes
from monosem.sparse.kernels import topk_relu
from monosem.sparse.sae import SAE


@dataclass(frozen=True)
class Step:
    """What a batch says.

    loss, aux_loss, penalty: 0-d; what is minimised is loss + aux_coef aux_loss + penalty.
    radial: the part of each decoder row's gradient along that row `[L]`, which a unit row does not follow.
    active: which latents were active in the batch `[L]`.
    """

    loss: Tensor
    aux_loss: Tensor
    penalty: Tensor
    radial: Tensor
    active: Tensor


def gradients(
    sae: SAE,
    z: Tensor,
    dead: Tensor,
    variance: float,
    *,
    form: type[BatchCodes] = DenseCodes,
    k: int | None = None,
    n: int | None = None,
    outputs: Tensor | None = None,
    total: Total = alone,
) -> Step:
    """Set the gradient of every parameter for one batch of normalised inputs `[B, D]`.

    loss = mean (z - z_hat)^2 / variance, with the variance of the whole training set, so that it is the
    batch's part of the FVU; with prefixes its mean over them. To it comes aux_coef times AuxK (Gao et al.,
    A.2): the residual, detached and without b_pre, modelled by the `dead` latents `[n_dead]` (indices) and
    measured in units of its own variance.

    Args:
        form: how codes are held; all forms give the same gradients.
        k: latents active at once; None: the SAE's.
        n: rows of the batch over all processes, whose losses and gradients add up to those of the batch;
            None: these are all.
        outputs: room for the encoder's outputs, `[B, L]` or with more rows.
        total: adds up what the processes that share the batch have found.
    """
    settings, activation = sae.settings, sae.activation
    k, n = k or sae.k, n or len(z)
    ends = [*(end for end in settings.prefixes if end < sae.n_latents), sae.n_latents]
    x = z - sae.b_pre
    room = None if outputs is None else outputs[: len(z)]
    pre = form.encode(x, sae.encoder, sae.encoder_bias, room)
    held = activation.held(form, pre, k, sae.threshold)
    codes = activation.of_held(held, sae.threshold)
    excesses = [decoded - z for decoded in codes.decode(sae.b_pre, sae.decoder, ends)]
    per_entry = 1 / (n * sae.dim * variance * len(ends))
    loss = torch.stack([excess.square().sum() for excess in excesses]).sum() * per_entry
    # What a group of latents adds is in every reconstruction from its own on.
    pushes = [excess * (2 * per_entry) for excess in excesses]
    for group in range(len(pushes) - 2, -1, -1):
        pushes[group] += pushes[group + 1]
    d_codes = codes.dots(pushes, sae.decoder, ends)
    back = activation.back(held, d_codes, sae.threshold, Whole(n, k, total))
    d_pre = held.with_values(back.pre)
    # The last step's gradients are room for these.
    sae.decoder.grad = codes.outer(pushes, ends, room=sae.decoder.grad)
    sae.encoder.grad = d_pre.outer([x], ends[-1:], room=sae.encoder.grad)
    sae.encoder_bias.grad = d_pre.sums()
    radial = codes.with_values(codes.values * d_codes).sums()
    aux_loss = torch.zeros_like(loss)
    if len(dead) and settings.aux_coef > 0:
        aux_loss = _add_aux(sae, x, pre[:, dead], excesses[-1], dead, n, radial, total)
    # b_pre is in every reconstruction, and is taken from every input.
    sae.b_pre.grad = pushes[0].sum(dim=0) - sae.encoder_bias.grad @ sae.encoder
    if sae.threshold is not None and back.threshold is not None:
        sae.threshold.grad = back.threshold
    activation.follow(held, sae.threshold)
    active = codes.with_values((codes.values > 0).to(z.dtype)).sums() > 0
    return Step(loss, aux_loss, back.penalty, radial, active)


def _add_aux(
    sae: SAE,
    x: Tensor,
    pre: Tensor,
    excess: Tensor,
    dead: Tensor,
    n: int,
    radial: Tensor,
    total: Total,
) -> Tensor:
    """AuxK's loss; its gradients are added to those that are there. `pre` is the dead latents' alone."""
    settings, table = sae.settings, sae.decoder[dead]
    codes = topk_relu(pre, settings.aux_k or max(1, sae.dim // 2))
    # excess is minus the residual, so this is the auxiliary reconstruction minus the residual.
    aux_excess = torch.addmm(excess, codes, table)
    centred = excess - total(excess.sum(dim=0)) / n
    spread = total(centred.square().sum())
    per_spread = torch.where(spread > 0, 1 / spread, 0.0)  # a batch of one row has none
    push = aux_excess * (2 * settings.aux_coef * per_spread)
    d_codes = push @ table.T
    d_pre = d_codes * (codes > 0)
    for parameter, gradient in (
        (sae.decoder, codes.T @ push),
        (sae.encoder, d_pre.T @ x),
        (sae.encoder_bias, d_pre.sum(dim=0)),
    ):
        assert parameter.grad is not None
        parameter.grad.index_add_(0, dead, gradient)
    radial.index_add_(0, dead, (codes * d_codes).sum(dim=0))
    return aux_excess.square().sum() * per_spread

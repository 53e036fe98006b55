"""What an SAE makes of its encoder's outputs: which latents are active, and what keeps them few.

    topk        the k largest of each sample                         (Gao et al. 2024; the paper's)
    batch_topk  the k B largest of a batch of B samples              (Bussmann et al. 2024)
    jump_relu   what exceeds a threshold that each latent learns     (Rajamanoharan et al. 2024)
    relu        what is positive, under an L1 norm                   (Bricken et al. 2023)

In use no sample's codes depend on another's: batch_topk has a threshold then, a running mean of the smallest
values that were active in its batches.
"""

import math
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from monosem.sparse.batch_codes import BatchCodes
from monosem.sparse.kernels import kth_largest
from monosem.sparse.sae_settings import SAESettings

AnyCodes = TypeVar("AnyCodes", bound=BatchCodes)

_L1 = 0.02
_DISTANCE_FROM_K = 1.0
_THRESHOLD_MEMORY = 0.95
_FALL_OF_DEAD = 0.9
_OUTPUTS_AT_ONCE, _FEWEST_ROWS = 2**22, 64
"""Of the encoder, when thresholds begin."""

Total = Callable[[Tensor], Tensor]
"""Adds up what the processes that share a batch have found."""


Encode = Callable[[slice, slice], Tensor]


def alone(found: Tensor) -> Tensor:
    """The total where one process has the whole batch."""
    return found


class Whole(NamedTuple):
    """The batch of n samples that these belong to, of whose latents k are active, and how its totals come."""

    n: int
    k: int
    total: Total


class Back(NamedTuple):
    """Gradients of encoder outputs where codes are held, and of thresholds `[L]` (None: there are none).

    penalty: what the activation adds to the loss; over processes it adds up.
    """

    pre: Tensor
    threshold: Tensor | None
    penalty: Tensor


class TopK:
    """The k largest of each sample; what the other activations do differently is written there.

    Encoder outputs `pre` are `[B, L]`, `threshold` is `[L]` (None: there is none).
    """

    has_threshold = False
    learns_threshold = False

    def codes(self, form: type[AnyCodes], pre: Tensor, k: int, threshold: Tensor | None) -> AnyCodes:
        """The codes in use."""
        return form.topk(pre, k)

    def held(self, form: type[AnyCodes], pre: Tensor, k: int, threshold: Tensor | None) -> AnyCodes:
        """In training: encoder outputs wherever a gradient may come from."""
        return form.topk(pre, k)

    def of_held(self, held: AnyCodes, threshold: Tensor | None) -> AnyCodes:
        """The codes among them."""
        return held

    def back(self, held: BatchCodes, d_codes: Tensor, threshold: Tensor | None, of: Whole) -> Back:
        """From the loss's gradient at each held place to that of the encoder's output there."""
        return Back(d_codes * (held.values > 0), None, d_codes.new_zeros(()))

    def first_threshold(self, encode: Encode, n_rows: int, n_latents: int, k: int) -> Tensor:
        """Where the threshold begins, 0-d or `[L]`: k of a row's first encoder outputs exceed it on average.

        encode: the outputs `[rows, latents]` of some of `n_rows` rows and some latents.
        """
        rows = max(_FEWEST_ROWS, _OUTPUTS_AT_ONCE // n_latents)
        return batch_cut(encode(slice(rows), slice(None)), k)

    def follow(self, held: BatchCodes, threshold: Tensor | None) -> None:
        """Learn in place, from a batch, what no gradient teaches."""

    def settle(self, threshold: Tensor | None, dead: Tensor) -> None:
        """After a step: bring the threshold in place where it may be, given which latents are dead `[L]`."""


class ReLU(TopK):
    """What is positive; the penalty is `coef` times the codes' sum over sqrt(D), its mean over samples."""

    def __init__(self, coef: float, dim: int) -> None:
        self._pull = coef / math.sqrt(dim)

    def codes(self, form: type[AnyCodes], pre: Tensor, k: int, threshold: Tensor | None) -> AnyCodes:
        """The positive outputs."""
        return form.where(pre > 0, pre)

    held = codes

    def back(self, held: BatchCodes, d_codes: Tensor, threshold: Tensor | None, of: Whole) -> Back:
        """The L1 norm pulls every active code alike."""
        pull = self._pull / of.n
        return Back((d_codes + pull) * (held.values > 0), None, pull * held.values.sum())


class BatchTopK(TopK):
    """The k B largest of a batch, or of this process's part of one; in use, what exceeds the threshold."""

    has_threshold = True

    def codes(self, form: type[AnyCodes], pre: Tensor, k: int, threshold: Tensor | None) -> AnyCodes:
        """What exceeds the threshold."""
        assert threshold is not None
        return form.where((pre > threshold) & (pre > 0), pre)

    def held(self, form: type[AnyCodes], pre: Tensor, k: int, threshold: Tensor | None) -> AnyCodes:
        """The k B largest outputs that are positive."""
        cut = batch_cut(pre, k) if len(pre) else 0.0  # a process's part may have no rows
        return form.where((pre >= cut) & (pre > 0), pre)

    def follow(self, held: BatchCodes, threshold: Tensor | None) -> None:
        """The threshold goes after the smallest active value."""
        assert threshold is not None
        active = held.values[held.values > 0]
        if len(active):
            threshold.lerp_(active.min().expand_as(threshold), 1 - _THRESHOLD_MEMORY)


class JumpReLU(BatchTopK):
    """What exceeds a threshold that learns from the outputs within half a `bandwidth` of it.

    The penalty is coef (L0 / k - 1)^2, with L0 the batch's mean number of active latents: it is least at k,
    not at none. The step's gradient is the rectangle's (Rajamanoharan et al. 2024, section 3).
    """

    learns_threshold = True

    def __init__(self, coef: float, bandwidth: float) -> None:
        self._coef, self._bandwidth = coef, bandwidth

    def held(self, form: type[AnyCodes], pre: Tensor, k: int, threshold: Tensor | None) -> AnyCodes:
        """What exceeds the threshold, or nearly."""
        assert threshold is not None
        return form.where((pre > threshold - self._bandwidth / 2) & (pre > 0), pre)

    def of_held(self, held: AnyCodes, threshold: Tensor | None) -> AnyCodes:
        """What exceeds it indeed."""
        assert threshold is not None
        return held.with_values(held.values * (held.values > held.per_latent(threshold)))

    def back(self, held: BatchCodes, d_codes: Tensor, threshold: Tensor | None, of: Whole) -> Back:
        """Outputs near the threshold move it."""
        assert threshold is not None
        at = held.per_latent(threshold)
        active = held.values > at
        near = ((held.values - at).abs() < self._bandwidth / 2) & (held.values > 0)
        count = active.sum().to(at.dtype)
        everywhere, processes = of.total(torch.stack([count, torch.ones_like(count)]))
        beyond = everywhere / (of.n * of.k) - 1
        of_count = 2 * self._coef * beyond / (of.n * of.k)
        pushes = near * (at * d_codes + of_count) / -self._bandwidth
        share = self._coef * beyond**2 / processes  # these are added up
        return Back(d_codes * active, held.with_values(pushes).sums(), share)

    def first_threshold(self, encode: Encode, n_rows: int, n_latents: int, k: int) -> Tensor:
        """Every latent is active equally often: one that never is learns nothing."""
        often, at_once = max(1, round(n_rows * k / n_latents)), max(1, _OUTPUTS_AT_ONCE // n_rows)
        latents = (slice(first, first + at_once) for first in range(0, n_latents, at_once))
        return torch.cat(
            [kth_largest(encode(slice(None), some).T.contiguous(), often)[:, 0] for some in latents]
        )

    def follow(self, held: BatchCodes, threshold: Tensor | None) -> None:
        """Gradients teach all but `settle`."""

    def settle(self, threshold: Tensor | None, dead: Tensor) -> None:
        """A threshold that no output comes near has no gradient; a dead latent's falls until one does."""
        assert threshold is not None
        threshold.copy_(torch.where(dead, _FALL_OF_DEAD * threshold, threshold).clamp(min=0))


def activation(settings: SAESettings, dim: int) -> TopK:
    """The activation that the settings name, for inputs of `dim` columns."""
    coef = settings.sparsity_coef
    match settings.activation:
        case "topk":
            return TopK()
        case "batch_topk":
            return BatchTopK()
        case "jump_relu":
            return JumpReLU(_DISTANCE_FROM_K if coef is None else coef, settings.bandwidth)
        case "relu":
            return ReLU(_L1 if coef is None else coef, dim)


def batch_cut(pre: Tensor, k: int) -> Tensor:
    """The (k B)-th largest of all entries of `[B, L]`, 0-d."""
    return kth_largest(pre.reshape(1, -1), min(k * len(pre), pre.numel()))[0, 0]

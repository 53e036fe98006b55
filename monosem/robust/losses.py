"""Classification losses with their gradients in closed form, so that probes train without autograd.

Every loss here is a function f of p, the probability that softmax gives to the sample's label. Its gradient
with respect to the logits is then the one of cross-entropy, (softmax - one-hot), times the slope -f'(p) p,
one number a sample. A loss is therefore two short functions.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LabelLoss:
    """A loss of the given label's probability p.

    `of_log_p` maps log p [...] to the loss [...]; `slope` maps p [...] to -f'(p) p [...], and is None where
    that is 1 everywhere.
    """

    of_log_p: Callable[[Tensor], Tensor]
    slope: Callable[[Tensor], Tensor] | None

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Loss of each sample [...] for logits [..., K] and labels [...] in 0..K-1."""
        log_p = torch.log_softmax(logits, dim=-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
        return self.of_log_p(log_p)

    def gradient_(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Overwrite logits [..., K] with the gradient of each sample's loss with respect to them."""
        torch.softmax(logits, dim=-1, out=logits)
        index = labels.unsqueeze(-1)
        slope = None if self.slope is None else self.slope(logits.gather(-1, index))
        logits.scatter_add_(-1, index, logits.new_full((), -1.0).expand(index.shape))
        return logits if slope is None else logits.mul_(slope)


def symmetric_cross_entropy(alpha: float = 6.0, beta: float = 0.1, log_zero: float = -4.0) -> LabelLoss:
    """alpha CE + beta reverse CE, where log 0 of the one-hot label is taken as `log_zero`.

    Reverse cross-entropy, -sum_k p_k log y_k, is -log_zero (1 - p). The weights are those of the paper's
    published code (appendix C.1), log 0 = -4 is Wang et al. 2019, "Symmetric Cross Entropy for Robust
    Learning with Noisy Labels".
    """
    reverse = -log_zero * beta
    return LabelLoss(
        of_log_p=lambda log_p: -alpha * log_p - reverse * torch.expm1(log_p),
        slope=lambda p: alpha + reverse * p,
    )


LOSSES: dict[str, LabelLoss] = {
    "cross_entropy": LabelLoss(of_log_p=torch.neg, slope=None),
    "symmetric_cross_entropy": symmetric_cross_entropy(),
}

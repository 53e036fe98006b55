"""Ridge classifiers along the whole path of regularisation strengths, from one eigendecomposition.

One-hot targets, unpenalised intercept. The strength is chosen by the leave-one-out error on the given labels,
noisy as they are, which has a closed form; the best strength by clean test accuracy is the oracle, an upper
bound that nobody can have.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from monosem.core.seeding import torch_stream
from monosem.core.settings import Settings
from monosem.measures.blocks import Rows, row_blocks
from monosem.robust.principal import PrincipalAxes, ScoredRows, principal_axes
from monosem.robust.probe import LinearProbes, check_labels

_ROWS_AT_ONCE = 2048


class RidgeSettings(Settings):
    """One grid of strengths for all feature sets, in units of the features' total variance.

    Relative to the total variance, a factor on the features or dimensions that are always zero move nothing.
    """

    log10_weakest: float = -7.0
    log10_strongest: float = 2.0
    per_decade: Annotated[int, Field(ge=1)] = 2
    loo_rows: Annotated[int, Field(ge=1)] | None = None
    """Score leave-one-out on this many rows, drawn by seed, the same for every feature set (None: on all)."""

    @model_validator(mode="after")
    def _enough_decades(self) -> Self:
        if self.log10_strongest - self.log10_weakest < 5:
            raise ValueError("a grid of strengths must span at least five decades")
        return self

    def strengths(self) -> Tensor:
        """The grid [L], weakest first, float64."""
        n = round((self.log10_strongest - self.log10_weakest) * self.per_decade) + 1
        return torch.logspace(self.log10_weakest, self.log10_strongest, n, dtype=torch.float64)


@dataclass(frozen=True)
class RidgePath:
    """Training features in their principal axes, ready to be solved for any labels and strengths."""

    axes: PrincipalAxes
    scores: Rows
    """[N, r]: the centred training features along the axes; of codes, computed when they are read."""

    @classmethod
    @torch.no_grad()
    def fit(cls, features: Rows) -> Self:
        """Decompose the training features [N, D]; costs one eigendecomposition of size min(N, D).

        Raises:
            InputError: a NaN or infinite value, or all samples are equal.
        """
        axes = principal_axes(features)
        held = isinstance(features, Tensor)
        return cls(axes, axes.project(features) if held else ScoredRows(axes, features))

    @torch.no_grad()
    def solve(self, labels: Tensor, n_classes: int, settings: RidgeSettings, seed: int) -> "RidgeFits":
        """Fit all rows of labels [P, N] at all strengths and score each by leave-one-out.

        Raises:
            InputError: a label outside 0..n_classes-1, one class only, labels of another number of samples.
        """
        check_labels(self.scores, labels, n_classes)
        labels = labels.to(self.scores.device)
        n, n_problems = len(self.scores), len(labels)
        sums, counts = class_sums(self.scores, labels, n_classes)
        strengths = settings.strengths().to(labels.device)
        fits = RidgeFits(
            axes=self.axes,
            strengths=strengths,
            moments=sums / n,
            priors=(counts / n).to(sums.dtype),
            loo_error=torch.zeros(len(strengths), n_problems, dtype=torch.float64, device=labels.device),
        )
        rows = torch.arange(n)
        if settings.loo_rows is not None:
            rows = torch.randperm(n, generator=torch_stream(seed, "ridge", "loo"))[: settings.loo_rows]
        for block in torch.split(rows.to(labels.device), _ROWS_AT_ONCE):
            fits.loo_error.add_(self._loo_error(fits, block, labels[:, block].T), alpha=1 / len(rows))
        return fits

    def _loo_error(self, fits: "RidgeFits", rows: Tensor, labels: Tensor) -> Tensor:
        """Sum over `rows` of the squared error of each one's prediction by all others, [L, P].

        For a quadratic penalty that error is the residual over 1 - h, with h the diagonal of the hat matrix:
        1/N from the intercept, and the shrunken leverage.
        """
        scores = self.scores[rows]
        weighted_squares = scores.double().square() / len(self.scores)
        errors = []
        for shrinkage, outputs in zip(fits.shrinkage, fits.outputs(scores), strict=True):
            leverage = 1 / len(self.scores) + weighted_squares @ shrinkage
            outputs.scatter_add_(
                -1, labels.unsqueeze(-1), outputs.new_full((), -1.0).expand(*labels.shape, 1)
            )
            residual = torch.linalg.vector_norm(outputs, dim=-1).double()
            errors.append((residual / (1 - leverage).unsqueeze(1)).square().sum(0))
        return torch.stack(errors)


def class_sums(inputs: Rows, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor]:
    """Sums [P, K, D] and numbers [P, K] of the inputs [N, D] in each class of each row of labels [P, N].

    Samples sorted by class are the bags of an embedding, which needs no one-hot matrix. Each bag of a block
    begins with the sum so far, so that blocks add up in the order, hence to the bits, of a single pass.
    """
    n_problems = len(labels)
    targets = labels + n_classes * torch.arange(n_problems, device=labels.device)[:, None]
    n_targets = n_problems * n_classes
    every = torch.arange(n_targets, device=targets.device)
    sums = torch.zeros(n_targets, inputs.shape[1], dtype=inputs.dtype, device=targets.device)
    for span, block in row_blocks(inputs):
        bags = torch.cat([every, targets[:, span].flatten()])
        in_block = n_targets + torch.arange(len(block), device=bags.device)
        rows = torch.cat([every, in_block.repeat(n_problems)])
        sizes = torch.bincount(bags)
        order = rows[bags.argsort(stable=True)]
        sums = F.embedding_bag(order, torch.cat([sums, block]), sizes.cumsum(0) - sizes, mode="sum")
    counts = torch.bincount(targets.flatten(), minlength=n_targets)
    return sums.view(n_problems, n_classes, -1), counts.view(n_problems, n_classes)


@dataclass(frozen=True)
class RidgeFits:
    """P problems solved at L strengths.

    strengths [L] (of the total variance, weakest first); moments [P, K, r] = one-hot^T scores / N; priors
    [P, K], the class frequencies; loo_error [L, P], the mean over samples of the squared error summed over
    classes when the sample is left out.
    A choice of strengths is an index [P] into the grid.
    """

    axes: PrincipalAxes
    strengths: Tensor
    moments: Tensor
    priors: Tensor
    loo_error: Tensor

    def __getitem__(self, problems: slice) -> Self:
        """Some of the problems, at all strengths."""
        return replace(
            self,
            moments=self.moments[problems],
            priors=self.priors[problems],
            loo_error=self.loo_error[:, problems],
        )

    @property
    def shrinkage(self) -> Tensor:
        """1 / (variance + penalty) for each strength and axis, [L, r], float64."""
        penalties = self.strengths * self.axes.variances.sum()
        return 1 / (self.axes.variances + penalties.unsqueeze(1))

    def tuned(self) -> Tensor:
        """The strengths with the least leave-one-out error on the given labels, [P]."""
        return self.loo_error.argmin(0)

    def oracle(self, features: Rows, labels: Tensor) -> Tensor:
        """The strengths with the best accuracy on clean test data, [P]: an upper bound nobody can have."""
        return self.accuracy(features, labels).argmax(0)

    def at_edge(self, choice: Tensor) -> Tensor:
        """Whether a choice [P] lies at an end of the grid, so that a wider one might differ."""
        return (choice == 0) | (choice == len(self.strengths) - 1)

    def accuracy(self, features: Rows, labels: Tensor) -> Tensor:
        """Accuracy [L, P] on features [M, D] with labels [M], for every strength."""
        correct = torch.zeros_like(self.loo_error)
        labels = labels.to(correct.device)
        for rows, block in row_blocks(features, _ROWS_AT_ONCE):
            for index, outputs in enumerate(self.outputs(self.axes.project(block))):
                correct[index] += (outputs.argmax(-1) == labels[rows].unsqueeze(1)).sum(0)
        return correct / len(labels)

    def probes(self, choice: Tensor) -> LinearProbes:
        """The classifiers at a choice [P] of strengths."""
        slopes = self.moments * self.shrinkage[choice].unsqueeze(1).to(self.moments.dtype)
        return LinearProbes(slopes @ self.axes.directions.T, self.priors, self.axes.center)

    def outputs(self, scores: Tensor) -> Iterator[Tensor]:
        """For each strength in turn, the regression's outputs [M, P, K] at scores [M, r]."""
        moments, priors = self.moments.flatten(0, 1), self.priors.flatten()
        for shrinkage in self.shrinkage:
            slopes = moments * shrinkage.to(moments.dtype)
            yield torch.addmm(priors, scores, slopes.T).view(len(scores), *self.priors.shape)

"""Linear probes on frozen features, many label sets at once.

All conditions and seeds of one feature set see the same samples in the same order, so P probes of K classes
are one linear map with P*K outputs: one matrix product forward and one backward, whatever P is.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, Self

import torch
from pydantic import Field
from torch import Tensor

from monosem.core.artifacts import fingerprint_arrays
from monosem.core.checkpoints import Checkpoints, State, part_of, under
from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Watch
from monosem.core.seeding import torch_stream
from monosem.core.settings import Settings
from monosem.data.codes import Codes
from monosem.measures.blocks import Rows, row_blocks
from monosem.robust.forward_correction import check_transitions
from monosem.robust.losses import LossName, loss_named
from monosem.robust.probe_inputs import DenseInputs, ScaledInputs, SparseInputs
from monosem.robust.probe_updates import UPDATES
from monosem.sparse.batch_codes import FORMS, SparseCodes, forms_on
from monosem.sparse.form_choice import fastest, is_worth_timing
from monosem.sparse.sae_settings import ProductsName

ROWS_AT_ONCE = 4096
"""Rows read together wherever a pass over all samples is made."""

_OUTPUTS_AT_ONCE = 5120
"""Outputs stepped together: enough for full-speed products, few enough for logits of modest size."""


class ProbeSettings(Settings):
    """How a probe is trained; the defaults follow the paper (A.1) with SGD in place of LARS."""

    epochs: Annotated[int, Field(ge=1)] = 50
    batch_size: Annotated[int, Field(ge=1)] = 256
    optimizer: Literal["sgd", "lars", "adam"] = "sgd"
    lr: Annotated[float, Field(gt=0)] = 1.0
    """For features of unit mean squared norm (`scale` "rms"), where SGD is stable up to about 7."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """For Adam, beta1."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    schedule: Literal["cosine", "constant"] = "cosine"
    loss: LossName = "cross_entropy"
    scale: Literal["rms", "raw"] = "rms"
    """"rms": centred and divided by one number; "raw": the features as they are."""


@dataclass(frozen=True)
class FeatureScale:
    """x -> (x - mean) / rms with mean [D] and one number for all dimensions.

    rms is the root mean square of the centred samples' *norms*: neither a factor, nor a constant vector, nor
    dimensions that are always zero change what a probe sees, and one learning rate suits every feature set.
    """

    mean: Tensor
    rms: float

    @classmethod
    def fit(cls, features: Rows) -> Self:
        """The scale of the training features [N, D], accumulated in float64.

        Raises:
            InputError: all samples are equal.
        """
        total = sum(block.sum(0, dtype=torch.float64) for _, block in row_blocks(features, ROWS_AT_ONCE))
        mean = torch.as_tensor(total) / len(features)
        squares = sum((block - mean).square().sum() for _, block in row_blocks(features, ROWS_AT_ONCE))
        rms = math.sqrt(float(squares) / len(features))
        if not math.isfinite(rms):
            check_finite(features)
            raise InputError("features are too large to square in their own precision; scale them down")
        if rms <= 1e-12 * float(mean.norm()) or rms == 0:
            raise InputError(
                "all feature vectors are equal: the encoder has collapsed, there is nothing to probe"
            )
        return cls(mean.to(working_dtype(features)), rms)

    @classmethod
    def identity(cls, features: Rows) -> Self:
        """The scale that changes nothing."""
        mean = torch.zeros(features.shape[1], dtype=working_dtype(features), device=features.device)
        return cls(mean, 1.0)

    def __call__(self, features: Tensor) -> Tensor:
        """Scaled features [N, D]."""
        return (features - self.mean).div_(self.rms)


@dataclass(frozen=True)
class LinearProbes:
    """P linear classifiers on unscaled features: logits = (x - center) @ weight^T + bias.

    weight [P, K, D], bias [P, K], center [D]. The centre is kept apart because folding it into the bias would
    cancel digits for features far from zero.
    """

    weight: Tensor
    bias: Tensor
    center: Tensor

    def __getitem__(self, problems: slice) -> Self:
        """Some of the classifiers."""
        return type(self)(self.weight[problems], self.bias[problems], self.center)

    def logits(self, features: Rows) -> Tensor:
        """Logits [P, N, K] of features [N, D]."""
        return torch.cat(list(self._logit_blocks(features)), dim=1)

    def predict(self, features: Rows) -> Tensor:
        """Predicted classes [P, N] of features [N, D]; never holds all logits at once."""
        return torch.cat([block.argmax(-1) for block in self._logit_blocks(features)], dim=1)

    def _logit_blocks(self, features: Rows) -> Iterator[Tensor]:
        if features.shape[-1] != len(self.center):
            raise InputError(f"probes trained on {len(self.center)} dimensions got {features.shape[-1]}")
        stacked, bias = self.weight.flatten(0, 1), self.bias.flatten()
        for _, block in row_blocks(features, ROWS_AT_ONCE):
            logits = torch.addmm(bias, block - self.center, stacked.T)
            yield logits.view(len(block), *self.bias.shape).transpose(0, 1)


@torch.no_grad()
def train_probes(
    features: Tensor | Codes,
    labels: Tensor,
    n_classes: int,
    settings: ProbeSettings,
    seed: int,
    watch: Watch = SILENT,
    checkpoint: Path | None = None,
    transitions: Tensor | None = None,
    products: ProductsName = "auto",
) -> LinearProbes:
    """Train one linear probe for each row of labels, all from zero and in the same order of batches.

    Args:
        features: [N, D] float16, float32 or float64; float64 trains in float64, the others in float32.
        labels: [P, N] integers in 0..n_classes-1.
        n_classes: K.
        settings: optimiser, schedule, loss and scale.
        seed: names the order of batches (`probe_batches`).
        watch: told the epochs done; may pause the training where there is a `checkpoint`.
        checkpoint: folder for the state, written now and then; the same call finds it there and goes on, on
            the CPU to the same bits. The caller removes it.
        transitions: for the loss "forward", the noise matrix of all labels [K, K] or of each row [P, K, K].
        products: how codes are held in products; "dense" gives the bits of the dense tensor, the others the
            same up to rounding: these take the centre of the features off after multiplying, which costs
            digits where it is far from zero (weights changed by 6e-5 of themselves were measured for a centre
            100 times the deviation away). auto times all that can be had on the first batch, if the work is
            not small.

    Raises:
        InputError: shapes that do not fit, a label outside the range, one class only, a NaN or infinite
            feature, features that are all equal, weights that diverged, a checkpoint of another training,
            transitions that are missing, unused or no noise matrices of these labels.
        Paused: `watch` ended the training and the state is in `checkpoint`.
    """
    check_problems(features, labels, n_classes)
    if transitions is not None:
        transitions = transitions.to(features.device, working_dtype(features))
        transitions = check_transitions(transitions, labels, n_classes)
    scale = FeatureScale.fit(features) if settings.scale == "rms" else FeatureScale.identity(features)
    labels_by_sample = labels.to(features.device).T.contiguous()
    probes_at_once = max(1, _OUTPUTS_AT_ONCE // n_classes)
    blocks = [slice(start, start + probes_at_once) for start in range(0, len(labels), probes_at_once)]
    trainings = [
        _Training(
            len(labels[block]),
            n_classes,
            scale,
            settings,
            None if transitions is None else transitions[block],
        )
        for block in blocks
    ]
    identity = {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "n_classes": n_classes,
        "weights": "[D, P*K]",
    }
    if checkpoint is not None:  # else not worth a pass over the features
        stored = (features.indices, features.values) if isinstance(features, Codes) else (features,)
        matrices = () if transitions is None else (transitions,)
        identity["data"] = fingerprint_arrays(*stored, labels, *matrices)
    checkpoints = Checkpoints(checkpoint, identity, watch.notice)
    done, form = 0, "" if products == "auto" else str(products)
    if (earlier := checkpoints.load()) is not None:
        done, form = earlier.facts["done"], earlier.facts["form"]
        for index, training in enumerate(trainings):
            training.restore(part_of(str(index), earlier.tensors))

    def state() -> State:
        tensors: dict[str, Tensor] = {}
        for index, training in enumerate(trainings):
            tensors |= under(str(index), training.tensors())
        return State(tensors, {"done": done, "form": form})

    batches_per_epoch = math.ceil(len(features) / settings.batch_size)
    for rows, lr in probe_batches(len(features), settings, seed, done, features.device):
        given = labels_by_sample[rows]
        if not form:
            form = _fastest_form(features, rows, scale, trainings[0], given[:, blocks[0]], watch)
            watch.record("products", of="probes", form=form)
        inputs = _inputs(features, rows, scale, form)
        for block, training in zip(blocks, trainings, strict=True):
            training.step(inputs, given[:, block], lr)
        done += 1
        if done % batches_per_epoch == 0:
            watch.progress(done // batches_per_epoch, settings.epochs)
        checkpoints.at_safe_point(watch, state)
    weight, bias = (torch.cat(parts) for parts in zip(*(one.found() for one in trainings), strict=True))
    if not weight.isfinite().all():
        raise InputError(f"the probes diverged at learning rate {settings.lr:g}; lower it")
    return LinearProbes(weight.div_(scale.rms), bias, scale.mean)


def probe_batches(
    n: int, settings: ProbeSettings, seed: int, first: int = 0, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, float]]:
    """The rows of every batch from number `first` on, epoch after epoch, each with its learning rate."""
    generator = torch_stream(seed, "probe", "order")
    n_steps = settings.epochs * math.ceil(n / settings.batch_size)
    step = 0
    for _ in range(settings.epochs):
        # Epochs before `first` are drawn too: one stream orders them all.
        order = torch.randperm(n, generator=generator).to(device)
        for rows in torch.split(order, settings.batch_size):
            decay = 0.5 * (1 + math.cos(math.pi * step / n_steps)) if settings.schedule == "cosine" else 1.0
            if step >= first:
                yield rows, settings.lr * decay
            step += 1


def check_problems(features: Rows, labels: Tensor, n_classes: int) -> None:
    """Refuse what cannot be probed: see `train_probes`."""
    check_labels(features, labels, n_classes)
    check_finite(features)


def check_labels(features: Rows, labels: Tensor, n_classes: int) -> None:
    """Refuse labels [P, N] that do not fit features [N, D] or hold one class only; no feature is read."""
    if (
        len(features.shape) != 2
        or labels.ndim != 2
        or labels.shape[1] != len(features)
        or labels.numel() == 0
    ):
        raise InputError(
            "probes take features [N, D] and labels [P, N], "
            f"got shapes {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= n_classes:
        raise InputError(f"labels must lie in 0..{n_classes - 1}, found {low if low < 0 else high}")
    single = (labels == labels[:, :1]).all(dim=1).nonzero()
    if len(single):
        raise InputError(
            f"row {int(single[0])} of the labels holds one class only; a probe needs at least two"
        )


def check_finite(features: Rows) -> None:
    """Refuse features [N, D] with a NaN or infinite value, naming its place."""
    for span, block in row_blocks(features, ROWS_AT_ONCE):
        if not block.isfinite().all():
            row, column = (~block.isfinite()).nonzero()[0].tolist()
            raise InputError(
                f"features hold a NaN or infinite value at row {span.start + row}, column {column}"
            )


def working_dtype(features: Rows) -> torch.dtype:
    """The precision probes compute in: float64 for float64 features, else float32."""
    return torch.float64 if features.dtype == torch.float64 else torch.float32


def _inputs(features: Rows, rows: Tensor, scale: FeatureScale, form: str) -> ScaledInputs:
    """Some rows, scaled; codes in this form."""
    kind = FORMS[form]
    if isinstance(features, Codes) and issubclass(kind, SparseCodes):
        return SparseInputs.scaled(features.take(rows), scale.mean, scale.rms, kind)
    return DenseInputs(scale(features[rows]))


def _fastest_form(
    features: Rows,
    rows: Tensor,
    scale: FeatureScale,
    training: "_Training",
    labels: Tensor,
    watch: Watch,
) -> str:
    """How codes are multiplied fastest with these problems: for anything else there is one way."""
    outputs = len(rows) * labels.shape[1] * training.n_classes
    if not isinstance(features, Codes) or not is_worth_timing(outputs * features.dim):
        return "dense"
    room = torch.zeros_like(training.weight)

    def trial(form: str) -> float:
        inputs = _inputs(features, rows, scale, form)
        return float(inputs.gradient(training.residual(inputs, labels), room)[0, 0])

    return fastest({form: partial(trial, form) for form in forms_on(features.device, watch, encoding=False)})


class _Training:
    """The steps of some of the problems on their weight [D, P*K] and bias [P*K], which begin at zero."""

    def __init__(
        self,
        n_probes: int,
        n_classes: int,
        scale: FeatureScale,
        settings: ProbeSettings,
        transitions: Tensor | None,
    ) -> None:
        self._n_probes, self.n_classes = n_probes, n_classes
        self.weight = scale.mean.new_zeros(len(scale.mean), n_probes * n_classes)
        self._bias = scale.mean.new_zeros(n_probes * n_classes)
        self._loss = loss_named(settings.loss, transitions)
        self._update = UPDATES[settings.optimizer](
            self.weight, self._bias, n_probes, settings.momentum, settings.weight_decay
        )

    def step(self, inputs: ScaledInputs, labels: Tensor, lr: float) -> None:
        """Take scaled inputs, their labels [B, P] and the learning rate."""
        self._update(self.residual(inputs, labels), inputs, lr)

    def residual(self, inputs: ScaledInputs, labels: Tensor) -> Tensor:
        """Gradient of each sample's losses with respect to its logits [B, P*K]."""
        logits = inputs.logits(self.weight, self._bias).view(*labels.shape, self.n_classes)
        return self._loss.gradient_(logits, labels).flatten(1)

    def found(self) -> tuple[Tensor, Tensor]:
        """Weights [P, K, D] and biases [P, K]."""
        by_problem = self.weight.view(len(self.weight), self._n_probes, self.n_classes)
        return by_problem.permute(1, 2, 0).contiguous(), self._bias.view(self._n_probes, self.n_classes)

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight, "bias": self._bias, **under("update", self._update.tensors())}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        self.weight.copy_(tensors["weight"])
        self._bias.copy_(tensors["bias"])
        self._update.restore(part_of("update", tensors))

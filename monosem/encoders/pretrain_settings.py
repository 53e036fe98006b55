"""What one contrastive pretraining is: its settings, and the loss they ask for."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from monosem.core.nonlinearities import NonlinearityName
from monosem.core.settings import Settings
from monosem.data.views import ViewSettings
from monosem.encoders.backbones import Encoder, EncoderSettings, OutputSettings
from monosem.encoders.contrastive_loss import NonnegativeOn, nonnegative_nt_xent, nt_xent, unit_rows
from monosem.encoders.contrastive_step import Loss
from monosem.encoders.optim import OptimizerName


class PretrainSettings(Settings):
    """One pretraining. The defaults are the paper's for CIFAR (A.1, A.2 and its published configuration).

    `nonlinearity` and `nonnegative_on` concern objective ncl alone.
    """

    objective: Literal["simclr", "ncl"] = "simclr"
    encoder: EncoderSettings = EncoderSettings()
    nonlinearity: NonlinearityName = "rep_relu"
    nonnegative_on: NonnegativeOn = "normalised"
    minus_mean_abs: bool = False
    """Subtract the mean of |feature|, of unit-length features, from the NCL loss, as the published code does
    (the paper does not say so)."""
    epochs: Annotated[int, Field(ge=1)] = 200
    batch_size: Annotated[int, Field(ge=2)] = 256
    """Images per step over all processes; the loss sees two views of each and every other image of the batch.
    Images beyond the last full batch wait an epoch."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Pieces in which a batch goes through the encoder, where it does not fit the memory whole. The loss is
    still that of the whole batch; batch norm sees one piece."""
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
    watch_every: Annotated[int, Field(ge=1)] | None = None
    """Epochs between readings that look at labels (kNN accuracy, monosemanticity); None: a tenth of all.
    They change nothing else."""

    @property
    def output(self) -> OutputSettings:
        """How this objective makes features of projector outputs."""
        if self.objective == "simclr":
            return OutputSettings()
        return OutputSettings(nonlinearity=self.nonlinearity, nonnegative_on=self.nonnegative_on)


def objective_loss(settings: PretrainSettings, encoder: Encoder) -> Loss:
    """The loss that the settings ask for; `encoder` makes features where it looks at their size."""
    if settings.objective == "simclr":
        return lambda z0, z1: nt_xent(z0, z1, settings.temperature)

    def ncl(z0: Tensor, z1: Tensor) -> Tensor:
        loss = nonnegative_nt_xent(
            z0, z1, settings.temperature, settings.nonlinearity, settings.nonnegative_on
        )
        if settings.minus_mean_abs:
            features = encoder.features(torch.cat([z0, z1]).float())
            loss = loss - unit_rows(features).abs().mean()
        return loss

    return ncl

"""The parts of a recipe: which corruptions, at which levels."""

from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from monosem.core.nonlinearities import NonlinearityName
from monosem.core.settings import Settings, parse
from monosem.data.corruptions import CORRUPTIONS
from monosem.data.noise_source import NoiseKind
from monosem.data.shifts import ShiftTarget
from monosem.experiments.results import CE
from monosem.robust.axis_probes import AxisProbeName, AxisProbeSettings
from monosem.robust.finetune_settings import FinetuneSettings
from monosem.robust.losses import LossName

Start = Literal["simclr", "ncl", "scratch"]

_FROM_FILES = ("matrix", "human")

NoisyLabelLoss = Literal[LossName, "forward_estimated"]
"""The losses of probes; forward correction with the matrix of the noise, or with one read off a probe."""


class LabelNoiseGrid(Settings):
    """Label noise the probes are trained under; level 0 (clean) is always run beside the levels."""

    kind: NoiseKind = "symmetric"
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
    """Rates of wrong labels; for noise from a file, the share of it that is used: 1 is the file as it is."""
    file: str | None = None
    """For kind matrix: P(given | true), a row for each class. For kind human: the labels that people gave."""
    column: str | None = None
    """For kind human: which of the file's label sets, such as `worse_label`."""

    @field_validator("levels")
    @classmethod
    def _rates(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < level <= 1 for level in levels):
            raise ValueError("label noise rates lie in (0, 1]; clean labels are always included")
        return increasing(levels)

    @model_validator(mode="after")
    def _files(self) -> Self:
        if (self.kind in _FROM_FILES) != (self.file is not None):
            need = "needs `file`" if self.file is None else "takes no `file`"
            raise ValueError(f"label noise of kind {self.kind} {need}")
        if self.column is not None and self.kind != "human":
            raise ValueError(f"label noise of kind {self.kind} takes no `column`")
        return self

    @property
    def condition(self) -> str:
        """What results call it."""
        return f"label-noise-{self.kind.replace('_', '-')}"


class InputNoiseGrid(Settings):
    """What the test images are corrupted with, for probes and autoencoders fitted on clean ones.

    Noise by standard deviation on the 0..1 pixel scale, or the 15 common corruptions by severity.
    """

    kind: Literal["gaussian", "uniform", "uniform_published", "corruptions"] = "gaussian"
    levels: tuple[float, ...]
    """Standard deviations, or severities from 1 to 5."""
    corruptions: tuple[str, ...] = ()
    """For kind corruptions: some of the 15; all of them where none is named."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        increasing(self.levels)
        if self.kind == "corruptions":
            if any(level not in (1, 2, 3, 4, 5) for level in self.levels):
                raise ValueError("severities are whole numbers from 1 to 5; clean images are always included")
        elif any(level <= 0 for level in self.levels):
            raise ValueError("standard deviations are positive; clean images are always included")
        unknown = [name for name in self.corruptions if name not in CORRUPTIONS]
        if unknown:
            raise ValueError(f"no corruption {unknown[0]!r}; there are {', '.join(CORRUPTIONS)}")
        if self.corruptions and self.kind != "corruptions":
            raise ValueError(f"input noise of kind {self.kind} takes no `corruptions`")
        return self


class ShiftGrid(Settings):
    """Real distribution shifts: the same classes in other pictures, for probes fitted on the source alone."""

    targets: Annotated[dict[str, ShiftTarget], Field(min_length=1)]
    """Name of each target and where it lies."""

    @field_validator("targets")
    @classmethod
    def _names(cls, targets: dict[str, ShiftTarget]) -> dict[str, ShiftTarget]:
        for name in targets:
            if not name.replace("-", "").isalnum():
                raise ValueError(f"target {name!r}: names are made of letters, digits and hyphens")
        return targets


class MapGrid(Settings):
    """Places on the map of where it pays: every number of samples with every number of classes and signal."""

    samples: tuple[int, ...]
    """Training samples n, over all classes."""
    classes: tuple[int, ...]
    """How many of the classes, drawn anew for every encoder pair."""
    signals: tuple[float, ...]
    """Label signals lambda left by symmetric noise, 1 (clean labels) among them."""
    strengths: tuple[float, ...] = (1e-6, 1e-4, 1e-2, 1.0)
    """Of ridge probes that are not tuned, each taken to the nearest of the tuned grid."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        for numbers in (self.samples, self.classes, self.signals, self.strengths):
            increasing(numbers)
        if self.classes[0] < 2 or self.samples[0] < 2 or self.strengths[0] <= 0:
            raise ValueError("two classes, two samples and a positive strength are the least")
        if self.signals[0] <= 0 or self.signals[-1] != 1 or len(self.signals) < 2:
            raise ValueError("signals lie in (0, 1], with 1 and at least one that is weaker")
        return self


class FinetuneGrid(FinetuneSettings):
    """Finetuning with cross-entropy (CE), which these settings are, against its non-negative form (3.2)."""

    start: Start = "simclr"
    """Which encoder of a pair is finetuned; scratch: a fresh one, and none is pretrained."""
    fractions: tuple[float, ...] | None = None
    """Few labels: shares of the training set, 1 among them, the others drawn `n_noise` times."""
    label_noise: LabelNoiseGrid | None = None
    """Wrong labels; those of the recipe itself are for probes."""
    arms: dict[str, dict[str, Any] | None]
    """What is compared with `ce`: by name, what it changes in these settings; null leaves one out. Claims are
    made about `nce`, all others are controls."""

    @field_validator("fractions")
    @classmethod
    def _shares(cls, fractions: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if fractions is not None:
            increasing(fractions)
            if fractions[0] <= 0 or fractions[-1] != 1 or len(fractions) < 2:
                raise ValueError("fractions lie in (0, 1], with 1 and at least one that is less")
        return fractions

    @model_validator(mode="after")
    def _comparable(self) -> Self:
        if self.fractions is None and self.label_noise is None:
            raise ValueError("nothing is asked: give fractions or label_noise")
        if self.nonlinearity is not None:
            raise ValueError("nonlinearity belongs to an arm: these settings are those of cross-entropy")
        if CE in self.arms or not all(name.replace("-", "").isalnum() for name in self.arms):
            raise ValueError(f"arms: names are made of letters, digits and hyphens, and {CE} is taken")
        seen: dict[FinetuneSettings, str] = {}
        for name, settings in self.settings_of_arms().items():
            if seen.setdefault(settings, name) != name:
                raise ValueError(f"arms: {name} has the settings of {seen[settings]}")
        return self

    def settings_of_arms(self) -> dict[str, FinetuneSettings]:
        """The settings of `ce` and of each of `arms`."""
        shared = self.model_dump(mode="json", include=set(FinetuneSettings.model_fields))
        return {
            name: parse(FinetuneSettings, {**shared, **changes}, f"arms.{name}")
            for name, changes in {CE: {}, **self.arms}.items()
            if changes is not None
        }


class LossGrid(Settings):
    """Losses against label noise: probes by the published protocol with another loss than cross-entropy."""

    names: tuple[NoisyLabelLoss, ...] = get_args(NoisyLabelLoss)[1:]
    """All but cross-entropy, unless some are named."""
    rate: Literal["published", "matched"] = "matched"
    """"published": the published learning rate for every loss, although large losses then take large steps.
    "matched": that rate over `first_step`, so that first steps are as long as those of cross-entropy."""

    @field_validator("names")
    @classmethod
    def _others(cls, names: tuple[NoisyLabelLoss, ...]) -> tuple[NoisyLabelLoss, ...]:
        if "cross_entropy" in names:
            raise ValueError("leave cross_entropy out: the published protocol is it")
        if not names or len(set(names)) < len(names):
            raise ValueError("name at least one loss, each once")
        return names


class DoseGrid(Settings):
    """Doses of what may make features monosemantic; each is one feature set, and another rotated."""

    sae_k: tuple[int, ...] = ()
    """Sparse autoencoders on SimCLR's features, with the recipe's settings but for k."""
    ncl_epochs: tuple[int, ...] = ()
    """NCL after so many of its epochs; all but the last take another pretraining up to there."""
    maps: tuple[NonlinearityName, ...] = ()
    """Of each of SimCLR's features, after division by the root mean square of all of them."""

    @model_validator(mode="after")
    def _doses(self) -> Self:
        for numbers in filter(None, (self.sae_k, self.ncl_epochs)):
            if increasing(numbers)[0] < 1:
                raise ValueError("one latent and one epoch are the least")
        if not (self.sae_k or self.ncl_epochs or self.maps):
            raise ValueError("nothing is asked: give sae_k, ncl_epochs or maps")
        if len(set(self.maps)) < len(self.maps) or "rep_relu" in self.maps:
            raise ValueError("maps: give each once, and relu for rep_relu, which differs in gradients alone")
        return self


class AxisGrid(Settings):
    """Probes that can tell a feature set from its rotation, on both."""

    probes: tuple[AxisProbeName, ...] = ("l1", "adam", "trees")
    settings: AxisProbeSettings = AxisProbeSettings()

    @field_validator("probes")
    @classmethod
    def _once(cls, probes: tuple[AxisProbeName, ...]) -> tuple[AxisProbeName, ...]:
        if not probes or len(set(probes)) < len(probes):
            raise ValueError("give at least one probe, and each once")
        return probes


class SalienceGrid(Settings):
    """What probes trained on noisy labels lean on, in each feature set and in its rotation (4.1)."""

    n_classes: int = Field(3, ge=1)
    """How many of the most and of the least accurate classes are shown, with the dimension each leans on."""
    n_dimensions: int = Field(4, ge=1)
    """How many dimensions are drawn at random, to be shown (Fig. 1a)."""
    n_samples: int = Field(9, ge=2)
    """How many of the samples that activate a dimension most are shown."""


def increasing(levels: tuple[float, ...]) -> tuple[float, ...]:
    """The levels, if there are some, each above the one before by more than tables show."""
    shown = [f"{level:g}" for level in levels]
    if not levels or list(levels) != sorted(levels) or len(set(shown)) < len(shown):
        raise ValueError("give at least one level, each larger than the one before")
    return levels

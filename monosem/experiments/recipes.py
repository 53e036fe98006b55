"""What a recipe says: every setting of an experiment, validated."""

from collections.abc import Iterable
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from monosem.core.artifacts import fingerprint_json
from monosem.core.settings import Settings, parse, read_yaml_mapping, with_overrides
from monosem.data.datasets import DatasetSettings
from monosem.encoders.pretrain_settings import PretrainSettings
from monosem.experiments.recipe_files import recipe_source
from monosem.robust.probe import ProbeSettings
from monosem.robust.ridge import RidgeSettings
from monosem.sparse.sae import SAESettings

PaperTable = Literal["table1-cifar100", "table1-imagenet100"]
"""A table of the paper, by the shipped recipe that follows it."""


class LabelNoiseGrid(Settings):
    """Label noise the probes are trained under; level 0 (clean) is always run beside the levels."""

    kind: Literal["symmetric", "symmetric_including_self", "asymmetric"] = "symmetric"
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

    @field_validator("levels")
    @classmethod
    def _rates(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 < level <= 1 for level in levels):
            raise ValueError("label noise rates lie in (0, 1]; clean labels are always included")
        return _increasing(levels)


class InputNoiseGrid(Settings):
    """Input noise the probes are tested under, by standard deviation on the 0..1 pixel scale."""

    kind: Literal["gaussian", "uniform", "uniform_published"] = "gaussian"
    levels: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)

    @field_validator("levels")
    @classmethod
    def _deviations(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(level <= 0 for level in levels):
            raise ValueError("standard deviations are positive; clean images are always included")
        return _increasing(levels)


class Recipe(Settings):
    """One experiment: data, encoder pairs, sparse autoencoder, corruptions, probes."""

    title: str
    paper: PaperTable | None = None
    """Whose numbers stand beside ours in the reports; changes no result."""
    data: DatasetSettings
    seed: int = 0
    """Pair i has seed + i; for an independent repeat, raise it by n_encoders or more."""
    n_encoders: int = Field(6, ge=1)
    """Independent encoder pairs (SimCLR and NCL of one seed): the replicates of every claim."""
    n_noise: int = Field(3, ge=1)
    """Noise draws per encoder pair, averaged before any statistics."""
    pretrain: PretrainSettings
    """Shared by both encoders of a pair, which differ in the objective alone."""
    sae: SAESettings
    published: ProbeSettings
    """The paper's protocol: a gradient-trained probe with fixed settings."""
    published_on: Literal["all", "methods"] = "all"
    """Whether the paper's protocol runs on the controls too; the tuned one always does."""
    tuned: RidgeSettings
    """The grid from which the tuned and oracle verdicts choose."""
    label_noise: LabelNoiseGrid = LabelNoiseGrid()
    input_noise: InputNoiseGrid = InputNoiseGrid()
    margin: float = Field(0.01, gt=0)
    """A difference whose interval lies within +-margin (accuracy, 0.01 is one point) is a tie."""

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the numbers and how they are shown."""
        return recipe_hash(self.model_dump(mode="json"))

    @field_validator("pretrain")
    @classmethod
    def _both_objectives(cls, pretrain: PretrainSettings) -> PretrainSettings:
        if "objective" in pretrain.model_fields_set:
            raise ValueError("leave `objective` out: each pair has one encoder of either")
        return pretrain

    @field_validator("label_noise")
    @classmethod
    def _as_in_the_paper(cls, label_noise: LabelNoiseGrid, others: ValidationInfo) -> LabelNoiseGrid:
        if others.data.get("paper") and label_noise.kind != "symmetric":
            raise ValueError("the paper's Table 1 is about symmetric noise; set `paper` to null")
        return label_noise


def _increasing(levels: tuple[float, ...]) -> tuple[float, ...]:
    """The levels, if there are some, each above the one before by more than tables show."""
    shown = [f"{level:g}" for level in levels]
    if not levels or list(levels) != sorted(levels) or len(set(shown)) < len(shown):
        raise ValueError("give at least one level, each larger than the one before")
    return levels


def recipe_hash(tree: dict[str, Any]) -> str:
    """SHA-256 of a resolved recipe without what decides no number.

    Left out are how data gets here, how many processes decode it, how often training is looked at, and where
    files lie whose content is checked anyway.
    """
    passing = {"download", "workers"}
    if tree["data"]["name"] in ("digits", "cifar10", "cifar100"):
        passing.add("root")
    data = {key: value for key, value in tree["data"].items() if key not in passing}
    pretrain = {key: value for key, value in tree["pretrain"].items() if key != "watch_every"}
    return fingerprint_json({**tree, "data": data, "pretrain": pretrain})


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or one from a .yaml file, with `key=value` overrides applied.

    Raises:
        InputError: no such recipe, unknown key or wrong type (with the key's full path).
    """
    tree = read_yaml_mapping(recipe_source(name), f"recipe {name}")
    return parse(Recipe, with_overrides(tree, overrides), f"recipe {name}")

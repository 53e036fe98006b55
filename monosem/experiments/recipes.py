"""What a recipe says: every setting of an experiment, validated."""

from collections.abc import Iterable
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from monosem.core.artifacts import fingerprint_json
from monosem.core.errors import InputError
from monosem.core.settings import Settings, parse, with_overrides
from monosem.data.datasets import DatasetSettings
from monosem.encoders.pretrain_settings import PretrainSettings
from monosem.experiments.recipe_files import recipe_tree
from monosem.experiments.recipe_parts import (
    AxisGrid,
    DoseGrid,
    FinetuneGrid,
    InputNoiseGrid,
    LabelNoiseGrid,
    LossGrid,
    MapGrid,
    SalienceGrid,
    ShiftGrid,
)
from monosem.experiments.toy_recipe import ToyRecipe
from monosem.experiments.tuning_recipe import TuningRecipe, tuning_recipe
from monosem.robust.probe import ProbeSettings
from monosem.robust.ridge import RidgeSettings
from monosem.sparse.sae_settings import SAESettings

PaperTable = Literal["table1-cifar100", "table1-imagenet100"]
"""A table of the paper, by the shipped recipe that follows it."""

_OF_FEATURES = ("label_noise", "input_noise", "shift", "where_it_pays")
"""The parts of a recipe that ask something of feature sets."""


class Recipe(Settings):
    """One experiment: data, encoder pairs, sparse autoencoder, corruptions, probes."""

    title: str
    paper: PaperTable | None = None
    """Whose numbers stand beside ours in the reports; changes no result."""
    data: DatasetSettings
    """What probes and autoencoders are fitted on, and tested on."""
    pretrain_data: DatasetSettings | None = None
    """What encoders are pretrained on, where that is not `data`."""
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
    label_noise: LabelNoiseGrid | None = None
    losses: LossGrid | None = None
    """Asked of the dense features and the methods, under the recipe's label noise."""
    input_noise: InputNoiseGrid | None = None
    shift: ShiftGrid | None = None
    where_it_pays: MapGrid | None = None
    dose: DoseGrid | None = None
    """Asked under the recipe's label noise, as `axes` and `salience` are."""
    axes: AxisGrid | None = None
    salience: SalienceGrid | None = None
    finetune: FinetuneGrid | None = None
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
    def _as_in_the_paper(
        cls, label_noise: LabelNoiseGrid | None, others: ValidationInfo
    ) -> LabelNoiseGrid | None:
        if others.data.get("paper") and (label_noise is None or label_noise.kind != "symmetric"):
            raise ValueError("the paper's Table 1 is about symmetric noise; set `paper` to null")
        return label_noise

    @model_validator(mode="after")
    def _noisy_labels_where_they_are_asked_for(self) -> Self:
        for part in ("losses", "dose", "axes", "salience"):
            if getattr(self, part) is not None and self.label_noise is None:
                raise ValueError(f"`{part}` is asked against label noise: give label_noise")
        return self

    @model_validator(mode="after")
    def _losses_have_cross_entropy_beside_them(self) -> Self:
        if self.losses is not None and self.published.loss != "cross_entropy":
            raise ValueError("`losses` are compared with cross-entropy: leave published.loss at that")
        return self

    @model_validator(mode="after")
    def _asks_something(self) -> Self:
        if not self.asks_of_features and self.finetune is None:
            raise ValueError(f"nothing is asked: give {', '.join(_OF_FEATURES)} or finetune")
        return self

    @property
    def asks_of_features(self) -> bool:
        """Whether feature sets are measured and probed: finetuning alone has no use for that."""
        return any(getattr(self, part) is not None for part in _OF_FEATURES)

    @property
    def corrupts_tests(self) -> bool:
        """Whether test images other than the clean ones are looked at."""
        return self.input_noise is not None or self.shift is not None


_FIRST_SAE_SETTINGS = (
    "n_latents", "k", "input_norm", "b_pre_init", "aux_k", "aux_coef", "dead_after", "epochs", "batch_size",
    "lr", "betas", "warmup",
)  # fmt: skip


def recipe_hash(tree: dict[str, Any]) -> str:
    """SHA-256 of a resolved recipe without what decides no number.

    Left out are how data gets here, how many processes decode it, how often training is looked at, and where
    files lie whose content is checked anyway.
    """
    passing = {"download", "workers"}
    if tree["data"]["name"] in ("digits", "cifar10", "cifar100"):
        passing.add("root")
    if tree["data"].get("holdout") is None:  # so that recipes are known by the hash they had before it
        passing.add("holdout")
    data = {key: value for key, value in tree["data"].items() if key not in passing}
    pretrain = {key: value for key, value in tree["pretrain"].items() if key != "watch_every"}
    # A part that is not asked for is as if there was none of its kind: new kinds change no hash.
    asked = {key: value for key, value in tree.items() if value is not None or key == "paper"}
    # Nor do settings that came later, while they are at their defaults.
    defaults = SAESettings().model_dump(mode="json")
    sae = {
        key: value
        for key, value in tree["sae"].items()
        if key in _FIRST_SAE_SETTINGS or value != defaults.get(key)
    }
    return fingerprint_json({**asked, "data": data, "pretrain": pretrain, "sae": sae})


def load_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe:
    """A shipped recipe by name, or one from a .yaml file, with `key=value` overrides applied.

    Raises:
        InputError: no such recipe, unknown key or wrong type (with the key's full path), or a recipe that
            tunes a language model or is about toy models.
    """
    recipe = load_any_recipe(name, overrides)
    if not isinstance(recipe, Recipe):
        raise InputError(f"recipe {name}: of kind {recipe.kind}; run it with monosem run, or load_any_recipe")
    return recipe


def recipe_of_run(tree: Any, where: str) -> Recipe:
    """The recipe that a run's manifest holds, resolved; `where` opens the message.

    Raises:
        InputError: it is none of this version's.
    """
    # All settings are spelt out there, this one among them, which a recipe leaves out.
    if isinstance(tree, dict) and isinstance(tree.get("pretrain"), dict):
        pretrain = {key: value for key, value in tree["pretrain"].items() if key != "objective"}
        tree = {**tree, "pretrain": pretrain}
    return parse(Recipe, tree, where)


def load_any_recipe(name: str, overrides: Iterable[str] = ()) -> Recipe | TuningRecipe | ToyRecipe:
    """As `load_recipe`, and recipes of `kind: tuning` (language models) and `kind: toy` (toy models) too."""
    tree = with_overrides(recipe_tree(name), overrides)
    where = f"recipe {name}"
    if tree.get("kind") == "tuning":
        return tuning_recipe(tree, where)
    if tree.get("kind") == "toy":
        return parse(ToyRecipe, tree, where)
    return parse(Recipe, tree, where)

"""Which stages one encoder pair has, what determines the output of each, and what each may cost."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from monosem.core.settings import Settings
from monosem.data.datasets import ImageDataset
from monosem.encoders.backbones import build_encoder
from monosem.encoders.huggingface import local_files
from monosem.encoders.pretrain_settings import PretrainSettings
from monosem.experiments.feature_sets import FEATURE_SETS, sources
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS
from monosem.experiments.stage_cache import Stage

Objective = Literal["simclr", "ncl"]

OBJECTIVES: tuple[Objective, ...] = ("simclr", "ncl")

_FLOPS = 80e9
"""Operations a second that expected times assume: two ordinary CPU cores in single precision."""


@dataclass(frozen=True)
class PairStages:
    """The stages of one pair, by what they make; results by (features, kind of result)."""

    pretrained: dict[Objective, Stage]
    embedded: dict[Objective, Stage]
    embedded_noisy: dict[Objective, Stage]
    sae: Stage
    results: dict[tuple[str, str], Stage]

    def in_order(self) -> list[Stage]:
        """Every stage, each after those it reads."""
        encoders = [by_name[name] for name in OBJECTIVES for by_name in self._encoder_stages()]
        return [*encoders, self.sae, *self.results.values()]

    def _encoder_stages(self) -> tuple[dict[Objective, Stage], ...]:
        return self.pretrained, self.embedded, self.embedded_noisy


def plan_pair(recipe: Recipe, train: ImageDataset, test: ImageDataset, seed: int) -> PairStages:
    """The stages of the pair with this seed, each with all that determines its output."""
    pixels = {"mean": train.mean, "std": train.std}
    data = {"train": train.fingerprint, "test": test.fingerprint, **pixels}
    draws = {"draws": recipe.n_noise, "seed": seed}
    input_noise = {**_facts(recipe.input_noise), **draws}
    label_noise = {**_facts(recipe.label_noise), **draws, "classes": train.n_classes}
    pretrained, embedded, embedded_noisy = {}, {}, {}
    for name in OBJECTIVES:
        facts = {
            "data": train.fingerprint,
            "seed": seed,
            **pixels,
            **_pretrain_facts(recipe.pretrain, name),
        }
        pretrained[name] = Stage(f"pretrain-{name}", facts)
        embedded[name] = Stage(f"embed-{name}", data, [pretrained[name]])
        embedded_noisy[name] = Stage(f"embed-{name}-noisy", {**data, **input_noise}, [pretrained[name]])
    sae = Stage("sae", {"seed": seed, **_facts(recipe.sae)}, [embedded["simclr"]])

    results = {}
    for features in FEATURE_SETS:
        read = sources(features)
        encoders = [name for name in OBJECTIVES if name in read]
        clean = [*(embedded[name] for name in encoders), *([sae] if "sae" in read else [])]
        probed = [*clean, *(embedded_noisy[name] for name in encoders)]
        measured = {"features": features, "seed": seed, "classes": train.n_classes}
        results[features, "measure"] = Stage("measure", measured, clean)
        facts = {**measured, "label_noise": label_noise}
        results[features, "tuned"] = Stage("tuned", {**facts, **_facts(recipe.tuned)}, probed)
        if recipe.published_on == "all" or features in (BASELINE, *METHODS):
            results[features, "published"] = Stage("published", {**facts, **_facts(recipe.published)}, probed)
    return PairStages(pretrained, embedded, embedded_noisy, sae, results)


class Cost(NamedTuple):
    """What making a stage is expected to take, on two CPU cores, and to leave on the disk."""

    seconds: float
    megabytes: float


def expected_costs(recipe: Recipe, train: ImageDataset, test: ImageDataset) -> dict[str, Cost]:
    """Costs by name of the stage, from counts of floating-point operations."""
    n_train, n_test, width = len(train), len(test), recipe.pretrain.encoder.projector_out
    image = _forward_flops(recipe.pretrain, train)
    n_noisy = n_test * len(recipe.input_noise.levels) * recipe.n_noise
    cells = 1 + len(recipe.label_noise.levels) * recipe.n_noise
    # Forward and backward of one pass over the training set with every label set at once.
    probe_epoch = 4.0 * n_train * width * cells * train.n_classes
    flops_and_megabytes = {
        "sae": (12.0 * n_train * recipe.sae.epochs * width * (recipe.sae.n_latents or width), 1.0),
        "measure": (4.0 * n_train * n_test * width, 0.1),
        "tuned": (probe_epoch * len(recipe.tuned.strengths()) / 2, 0.1),
        "published": (probe_epoch * recipe.published.epochs, 0.1),
    }
    for name in OBJECTIVES:
        flops_and_megabytes |= {
            f"pretrain-{name}": (6 * image * n_train * recipe.pretrain.epochs, 4.0),
            f"embed-{name}": (image * (n_train + n_test), 4e-6 * (n_train + n_test) * width),
            f"embed-{name}-noisy": (image * n_noisy, 2e-6 * n_noisy * width),
        }
    overhead = 0.02
    return {
        name: Cost(overhead + flops / _FLOPS, megabytes)
        for name, (flops, megabytes) in flops_and_megabytes.items()
    }


def _forward_flops(settings: PretrainSettings, data: ImageDataset) -> float:
    """Floating-point operations of one image through the encoder."""
    encoder = build_encoder(settings.encoder, data.images.shape[1], seed=0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, *data.images.shape[1:]))
    return float(counter.get_total_flops())


def _pretrain_facts(settings: PretrainSettings, objective: Objective) -> dict[str, object]:
    """The settings that matter for one objective, so that changing NCL's alone finds SimCLR again."""
    of_ncl = {"nonlinearity", "nonnegative_on", "minus_mean_abs"} if objective == "simclr" else set()
    facts = {"objective": objective, **_facts(settings, exclude={"watch_every", *of_ncl})}
    if settings.encoder.hf_model is not None and (files := local_files(settings.encoder.hf_model)):
        facts["hf_files"] = files
    # On a GPU "auto" means another precision: its encoders are not the CPU's.
    return {**facts, "device": "cuda"} if torch.cuda.is_available() else facts


def _facts(settings: Settings, exclude: set[str] | None = None) -> dict[str, Any]:
    """Settings as JSON without those at their defaults, so that a setting that is new finds old stages.

    Whoever changes a default raises the version of the stages that it is for.
    """
    return settings.model_dump(mode="json", exclude=exclude, exclude_defaults=True)

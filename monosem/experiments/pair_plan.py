"""Which stages one encoder pair has, what determines the output of each, and what each may cost."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from torch.utils.flop_counter import FlopCounterMode

from monosem.core.artifacts import fingerprint_file
from monosem.core.settings import Settings
from monosem.data.datasets import ImageDataset
from monosem.encoders.backbones import EncoderSettings, build_encoder
from monosem.encoders.huggingface import local_files
from monosem.encoders.pretrain_settings import PretrainSettings
from monosem.experiments.corrupted_tests import corrupted_images
from monosem.experiments.feature_sets import FEATURE_SETS, sources
from monosem.experiments.recipe_data import RecipeData
from monosem.experiments.recipe_parts import LabelNoiseGrid
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS
from monosem.experiments.stage_cache import Stage
from monosem.experiments.works import Cost
from monosem.sparse.sae_settings import SAESettings

Objective = Literal["simclr", "ncl"]

OBJECTIVES: tuple[Objective, ...] = ("simclr", "ncl")

_FLOPS = 80e9
"""Operations a second that expected times assume: two ordinary CPU cores in single precision."""


@dataclass(frozen=True)
class PairStages:
    """The stages of one pair, by what they make; results by (features, kind of result).

    Where no test image is corrupted, `corrupted` is empty; where there are no real shifts, `shifted`; where
    nothing is asked of feature sets, `results`.
    """

    pretrained: dict[Objective, Stage]
    embedded: dict[Objective, Stage]
    corrupted: dict[Objective, Stage]
    shifted: dict[Objective, Stage]
    sae: Stage
    results: dict[tuple[str, str], Stage]

    def saved(self) -> dict[str, str]:
        """Keys of what feature sets are made of: the outputs of either encoder, "encoder-ncl" and "sae"."""
        outputs: dict[str, str] = {name: stage.key for name, stage in self.embedded.items()}
        return {**outputs, "encoder-ncl": self.pretrained["ncl"].key, "sae": self.sae.key}

    def read_by(self, features: str) -> list[Stage]:
        """What a feature set of the clean images is made of."""
        read = sources(features)
        embedded = [self.embedded[name] for name in OBJECTIVES if name in read]
        return [*embedded, self.sae] if "sae" in read else embedded


def plan_pair(recipe: Recipe, data: RecipeData, seed: int) -> PairStages:
    """The stages of the pair with this seed, each with all that determines its output."""
    train, test = data.train, data.test
    pixels = {"mean": train.mean, "std": train.std}
    images = {"train": train.fingerprint, "test": test.fingerprint, **pixels}
    draws = {"draws": recipe.n_noise, "seed": seed}
    pretrained, embedded, corrupted, shifted = {}, {}, {}, {}
    for name in OBJECTIVES:
        facts = {
            "data": data.pretrain.fingerprint,
            "seed": seed,
            **pixels,
            **_pretrain_facts(recipe.pretrain, name),
        }
        pretrained[name] = Stage(f"pretrain-{name}", facts)
        embedded[name] = Stage(f"embed-{name}", images, [pretrained[name]])
        if recipe.input_noise is not None:
            noise = {**images, **settings_facts(recipe.input_noise), **draws}
            corrupted[name] = Stage(f"embed-{name}-noisy", noise, [pretrained[name]])
        if data.targets:
            targets = {target: found.fingerprint for target, found in data.targets.items()}
            shifted[name] = Stage(f"embed-{name}-shift", {"targets": targets, **pixels}, [pretrained[name]])
    sae = sae_stage(recipe.sae, embedded["simclr"], seed)

    asked = noisy_label_facts(recipe, train, seed)
    results = {}
    for features in FEATURE_SETS if recipe.asks_of_features else ():
        read = sources(features)
        encoders = [name for name in OBJECTIVES if name in read]
        clean = [*(embedded[name] for name in encoders), *([sae] if "sae" in read else [])]
        probed = [
            *clean,
            *(corrupted[name] for name in encoders if name in corrupted),
            *(shifted[name] for name in encoders if name in shifted),
        ]
        measured = {"features": features, "seed": seed, "classes": train.n_classes}
        results[features, "measure"] = Stage("measure", measured, clean)
        facts = {**measured, **asked}
        results[features, "tuned"] = Stage("tuned", {**facts, **settings_facts(recipe.tuned)}, probed)
        if recipe.published_on == "all" or features in (BASELINE, *METHODS):
            published = {**facts, **settings_facts(recipe.published)}
            results[features, "published"] = Stage("published", published, probed)
    return PairStages(pretrained, embedded, corrupted, shifted, sae, results)


def expected_costs(recipe: Recipe, data: RecipeData) -> dict[str, Cost]:
    """Costs by name of the stage, from counts of floating-point operations."""
    n_train, n_test, width = len(data.train), len(data.test), recipe.pretrain.encoder.projector_out
    image = forward_flops(recipe.pretrain.encoder, data.train.images.shape[1:])
    noise = recipe.input_noise
    versions = [] if noise is None else [*corrupted_images(noise, recipe.n_noise, 0, data.test.std)]
    n_noisy = n_test * len(versions)
    n_shifted = sum(len(target) for target in data.targets.values())
    n_levels = 0 if recipe.label_noise is None else len(recipe.label_noise.levels)
    # Forward and backward of one pass over the training set with every label set at once.
    probe_epoch = 4.0 * n_train * width * (1 + n_levels * recipe.n_noise) * data.train.n_classes
    flops_and_megabytes = {
        "sae": (recipe.sae.training_flops(n_train, width), 1.0),
        "measure": (4.0 * n_train * n_test * width, 0.1),
        "tuned": (probe_epoch * len(recipe.tuned.strengths()) / 2, 0.1),
        "published": (probe_epoch * recipe.published.epochs, 0.1),
    }
    for name in OBJECTIVES:
        flops_and_megabytes |= {
            f"pretrain-{name}": (6 * image * len(data.pretrain) * recipe.pretrain.epochs, 4.0),
            f"embed-{name}": (image * (n_train + n_test), 4e-6 * (n_train + n_test) * width),
            f"embed-{name}-noisy": (image * n_noisy, 2e-6 * n_noisy * width),
            f"embed-{name}-shift": (image * n_shifted, 4e-6 * n_shifted * width),
        }
    return {name: expected_cost(flops, megabytes) for name, (flops, megabytes) in flops_and_megabytes.items()}


def expected_cost(flops: float, megabytes: float = 0.1) -> Cost:
    """The cost of so many floating-point operations and megabytes."""
    overhead = 0.02
    return Cost(overhead + flops / _FLOPS, megabytes)


@cache  # every pair asks, and it takes an encoder to count
def forward_flops(settings: EncoderSettings, shape: torch.Size) -> float:
    """Floating-point operations of one image through the encoder."""
    encoder = build_encoder(settings, shape[0], seed=0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(torch.zeros(1, *shape))
    return float(counter.get_total_flops())


def _pretrain_facts(settings: PretrainSettings, objective: Objective) -> dict[str, object]:
    """The settings that matter for one objective, so that changing NCL's alone finds SimCLR again."""
    of_ncl = {"nonlinearity", "nonnegative_on", "minus_mean_abs"} if objective == "simclr" else set()
    facts = {"objective": objective, **settings_facts(settings, exclude={"watch_every", *of_ncl})}
    return {**facts, **_file_facts(settings.encoder), **device_facts()}


def fresh_encoder_facts(settings: EncoderSettings) -> dict[str, object]:
    """What decides, with a seed, the weights that an encoder starts from."""
    return {"encoder": settings_facts(settings), **_file_facts(settings)}


def device_facts() -> dict[str, str]:
    """On a GPU "auto" means another precision: its encoders are not the CPU's."""
    return {"device": "cuda"} if torch.cuda.is_available() else {}


def _file_facts(settings: EncoderSettings) -> dict[str, object]:
    """What lies in the local folder, if there is one, that an encoder is made from."""
    files = None if settings.hf_model is None else local_files(settings.hf_model)
    return {"hf_files": files} if files else {}


def sae_stage(settings: SAESettings, simclr: Stage, seed: int) -> Stage:
    """A sparse autoencoder on what SimCLR puts out."""
    facts = {"seed": seed, **settings_facts(settings)}
    if settings.lr is None and settings.n_latents is not None:
        facts["rate"] = "by width"  # it went by the input's before
    return Stage("sae", facts, [simclr])


def noisy_label_facts(recipe: Recipe, train: ImageDataset, seed: int) -> dict[str, Any]:
    """The noisy labels that the probes of a pair are trained on; empty where there are none."""
    if recipe.label_noise is None:
        return {}
    draws = {"draws": recipe.n_noise, "seed": seed, "classes": train.n_classes}
    return {"label_noise": {**label_noise_facts(recipe.label_noise), **draws}}


def label_noise_facts(grid: LabelNoiseGrid) -> dict[str, Any]:
    """A grid of label noise by what its file holds, not by where that lies."""
    facts = settings_facts(grid)
    return facts if grid.file is None else {**facts, "file": fingerprint_file(Path(grid.file))}


def settings_facts(settings: Settings, exclude: set[str] | None = None) -> dict[str, Any]:
    """Settings as JSON without those at their defaults, so that a setting that is new finds old stages.

    Whoever changes a default raises the version of the stages that it is for.
    """
    return settings.model_dump(mode="json", exclude=exclude, exclude_defaults=True)

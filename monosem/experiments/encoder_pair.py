"""The stages of one encoder pair: pretrain SimCLR and NCL, embed, train the SAE, measure, probe.

Each stage reads the folders of those before it, so any of them can be found again, shared between recipes, or
resumed alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch.utils.flop_counter import FlopCounterMode

from monosem.core.artifacts import load_tensors, save_tensors
from monosem.core.progress import Watch
from monosem.data.datasets import ImageDataset
from monosem.data.feature_set import FeatureSet
from monosem.data.input_noise import add_input_noise
from monosem.encoders.backbones import Encoder, build_encoder, load_encoder, save_encoder
from monosem.encoders.embed import embed_images
from monosem.encoders.pretrain import PretrainSettings, pretrain
from monosem.experiments.feature_sets import FEATURE_SETS, FeatureBank, Outputs
from monosem.experiments.grid import (
    TestFeatures,
    corrupt,
    measure,
    noise_cells,
    noise_seed,
    published_protocol,
    tuned_protocol,
)
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS, read_results, rows, write_table
from monosem.experiments.stage_cache import Stage, StageCache
from monosem.sparse.sae import SparseAutoencoder
from monosem.sparse.train import fit, fvu

Objective = Literal["simclr", "ncl"]

_OBJECTIVES: tuple[Objective, ...] = ("simclr", "ncl")

_FLOPS = 80e9
"""Operations a second that expected times assume: two ordinary CPU cores in single precision."""


@dataclass(frozen=True)
class Step:
    """A stage, how to make it from (output folder, scratch folder), and what it is expected to cost."""

    stage: Stage
    make: Callable[[Path, Path], None]
    seconds: float
    megabytes: float = 0.1


class EncoderPair:
    """SimCLR and NCL encoders of one seed, the SAE on SimCLR's features, and everything measured on them.

    Args:
        recipe: what to do.
        train: images the encoders are pretrained on and, with their labels, the probes.
        test: images everything is scored on.
        cache: where stages lie.
        watch: told how far a stage is.
        index: number of the pair; its seed is recipe.seed + index.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageDataset,
        test: ImageDataset,
        cache: StageCache,
        watch: Watch,
        index: int,
    ) -> None:
        self.index = index
        self.seed = recipe.seed + index
        self.noisy_labels = corrupt(
            train.labels, train.n_classes, recipe.label_noise, recipe.n_noise, self.seed
        )
        self._recipe = recipe
        self._train = train
        self._test = test
        self._cache = cache
        self._watch = watch
        self._noise_cells = noise_cells(recipe.input_noise.levels, recipe.n_noise)

        data = {"train": train.fingerprint, "test": test.fingerprint}
        input_noise = {
            **recipe.input_noise.model_dump(mode="json"),
            "draws": recipe.n_noise,
            "seed": self.seed,
        }
        label_noise = {
            **recipe.label_noise.model_dump(mode="json"),
            "draws": recipe.n_noise,
            "seed": self.seed,
        }
        self._pretrained = {
            name: Stage(
                f"pretrain-{name}", {"data": train.fingerprint, "seed": self.seed, **_facts(recipe, name)}
            )
            for name in _OBJECTIVES
        }
        self._embedded = {
            name: Stage(f"embed-{name}", data, [self._pretrained[name]]) for name in _OBJECTIVES
        }
        self._embedded_noisy = {
            name: Stage(f"embed-{name}-noisy", {**data, **input_noise}, [self._pretrained[name]])
            for name in _OBJECTIVES
        }
        sae_facts = {"seed": self.seed, **recipe.sae.model_dump(mode="json")}
        self._sae = Stage("sae", sae_facts, [self._embedded["simclr"]])
        self._results: dict[tuple[str, str], Stage] = {}
        clean = [*self._embedded.values(), self._sae]
        probed = [*clean, *self._embedded_noisy.values()]
        for features in FEATURE_SETS:
            of = {"features": features, "seed": self.seed}
            self._results[features, "measure"] = Stage("measure", of, clean)
            tuned = {**of, "label_noise": label_noise, **recipe.tuned.model_dump(mode="json")}
            self._results[features, "tuned"] = Stage("tuned", tuned, probed)
            if recipe.published_on == "all" or features in (BASELINE, *METHODS):
                published = {**of, "label_noise": label_noise, **recipe.published.model_dump(mode="json")}
                self._results[features, "published"] = Stage("published", published, probed)

    def steps(self) -> list[Step]:
        """Every stage of the pair in the order of work, with its expected seconds and megabytes."""
        recipe, n_train, n_test = self._recipe, len(self._train), len(self._test)
        width = recipe.pretrain.encoder.projector_out
        image = forward_flops(recipe.pretrain, self._train) / _FLOPS
        n_noisy = n_test * len(self._noise_cells)
        steps = []
        for name in _OBJECTIVES:
            training = 3 * image * 2 * n_train * recipe.pretrain.epochs
            steps += [
                Step(self._pretrained[name], partial(self._pretrain, name), training, 4),
                Step(
                    self._embedded[name],
                    partial(self._embed, name),
                    image * (n_train + n_test),
                    4e-6 * (n_train + n_test) * width,
                ),
                Step(
                    self._embedded_noisy[name],
                    partial(self._embed_noisy, name),
                    image * n_noisy,
                    2e-6 * n_noisy * width,
                ),
            ]
        sae = 12 * n_train * recipe.sae.epochs * width * (recipe.sae.n_latents or width) / _FLOPS
        steps.append(Step(self._sae, self._train_sae, sae))
        probes = 4 * n_train * width * len(self.noisy_labels.cells) * self._train.n_classes / _FLOPS
        seconds = {
            "measure": 4 * n_train * n_test * width / _FLOPS,
            "tuned": probes * len(recipe.tuned.strengths()) / 2,
            "published": probes * recipe.published.epochs,
        }
        for (features, kind), stage in self._results.items():
            steps.append(Step(stage, partial(self._make_results, features, kind), 0.02 + seconds[kind]))
        return steps

    def results(self) -> list[pd.DataFrame]:
        """The tables of every result stage."""
        return [read_results(self._cache.folder(stage) / "results.csv") for stage in self._results.values()]

    def correctness(self, features: str) -> dict[tuple[str, str], np.ndarray]:
        """(protocol, condition) -> per-sample correctness of the primary endpoint, [test samples]."""
        found = {}
        for (name, _), stage in self._results.items():
            file = self._cache.folder(stage) / "correctness.safetensors"
            if name == features and file.exists():
                for key, values in load_tensors(file).items():
                    protocol, _, condition = key.partition("/")
                    found[protocol, condition] = values.numpy()
        return found

    def release(self) -> None:
        """Forget what is held in memory, to make room for the next pair."""
        self.__dict__.pop("_bank", None)

    def _pretrain(self, name: Objective, output: Path, scratch: Path) -> None:
        trained = pretrain(
            self._train,
            self._recipe.pretrain.replace(objective=name),
            self.seed,
            checkpoint=scratch,
            device=_device(),
            watch=self._watch,
        )
        save_encoder(output / "encoder", trained.encoder)
        write_table(pd.DataFrame(trained.history), output / "history.csv")

    def _encoder(self, name: Objective) -> Encoder:
        return load_encoder(self._cache.folder(self._pretrained[name]) / "encoder")

    def _embed(self, name: Objective, output: Path, scratch: Path) -> None:
        encoder = self._encoder(name)
        for split, data in (("train", self._train), ("test", self._test)):
            outputs = embed_images(encoder, data.images, self._train.mean, self._train.std, device=_device())
            FeatureSet.from_arrays(outputs, data.labels, data.ids, name=name).save(output / split)

    def _embed_noisy(self, name: Objective, output: Path, scratch: Path) -> None:
        encoder, kind = self._encoder(name), self._recipe.input_noise.kind
        outputs = {}
        for done, (level, draw) in enumerate(self._noise_cells):
            images = add_input_noise(
                self._test.images,
                level,
                noise_seed(self.seed, draw),
                kind=kind,
                ids=self._test.ids,
                channel_std=self._train.std,
            )
            z = embed_images(encoder, images, self._train.mean, self._train.std, device=_device())
            outputs[_cell_name(level, draw)] = z.half()
            self._watch.progress(done + 1, len(self._noise_cells))
        save_tensors(output / "outputs.safetensors", outputs)

    def _train_sae(self, output: Path, scratch: Path) -> None:
        features = FeatureSet.open(self._cache.folder(self._embedded["simclr"]) / "train")
        sae = fit(features.dense(), self._recipe.sae, seed=self.seed, device=_device(), watch=self._watch)
        sae.save(output / "sae")

    @cached_property
    def _bank(self) -> FeatureBank:
        outputs: dict[str, Outputs] = {}
        for name in _OBJECTIVES:
            folder = self._cache.folder(self._embedded[name])
            noisy = load_tensors(self._cache.folder(self._embedded_noisy[name]) / "outputs.safetensors")
            train, test = (
                torch.from_numpy(FeatureSet.open(folder / split).dense()) for split in ("train", "test")
            )
            outputs[name] = Outputs(train, test, [noisy[_cell_name(*cell)] for cell in self._noise_cells])
        sae = SparseAutoencoder.load(self._cache.folder(self._sae) / "sae")
        return FeatureBank(outputs, self._encoder("ncl"), sae, self.seed)

    def _fvu(self) -> float:
        """Fraction of variance of the SimCLR features of the test images that the SAE does not explain."""
        dense = self._bank.make(BASELINE)
        return fvu(self._bank.sae, dense.test, dense.train.mean(dim=0))

    def _make_results(self, features: str, kind: str, output: Path, scratch: Path) -> None:
        made = self._bank.make(features)
        recipe, train, labels = self._recipe, made.train, self.noisy_labels
        condition = f"input-noise-{recipe.input_noise.kind.replace('_', '-')}"
        test = TestFeatures(condition, self._test.labels, made.test, self._noise_cells, made.noisy)
        if kind == "measure":
            outcome = measure(train, self._train.labels, test, self._train.n_classes)
            if features == "sae":
                outcome.rows.append({**outcome.rows[0], "metric": "fvu", "value": self._fvu()})
        elif kind == "tuned":
            outcome = tuned_protocol(train, labels, test, recipe.tuned, self.seed)
        else:
            outcome = published_protocol(train, labels, test, recipe.published, self.seed, self._watch)
        facts = {
            "dataset": self._train.name,
            "encoder": recipe.pretrain.encoder.backbone,
            "features": features,
            "encoder_seed": self.seed,
        }
        write_table(rows(facts, outcome.rows), output / "results.csv")
        if features in (BASELINE, *METHODS) and outcome.correctness:
            tensors = {"/".join(key): values for key, values in outcome.correctness.items()}
            save_tensors(output / "correctness.safetensors", tensors)


def forward_flops(settings: PretrainSettings, data: ImageDataset) -> float:
    """Floating-point operations of one image through the encoder."""
    encoder = build_encoder(settings.encoder, data.images.shape[1], 0).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder(data.images[:1].float())
    return float(counter.get_total_flops())


def _facts(recipe: Recipe, objective: Objective) -> dict[str, object]:
    """The pretraining settings that matter for one objective, so that changing NCL's alone keeps SimCLR."""
    settings = recipe.pretrain.replace(objective=objective)
    of_ncl = {"nonlinearity", "nonnegative_on", "minus_mean_abs"} if objective == "simclr" else set()
    return settings.model_dump(mode="json", exclude=of_ncl)


def _cell_name(level: float, draw: int) -> str:
    return f"{level:g}/{draw}"


def _device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"

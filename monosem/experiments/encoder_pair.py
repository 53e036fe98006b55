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
from torch import Tensor

from monosem.core.artifacts import load_tensors, save_tensors
from monosem.core.progress import Watch
from monosem.data.datasets import ImageDataset
from monosem.data.feature_set import FeatureSet
from monosem.data.input_noise import add_input_noise
from monosem.encoders.backbones import Encoder, load_encoder, save_encoder
from monosem.encoders.embed import embed, embed_images
from monosem.encoders.pretrain import PretrainSettings, pretrain
from monosem.experiments.feature_sets import FEATURE_SETS, FeatureBank, source_of
from monosem.experiments.grid import LabelCells, TestFeatures, measure, published_protocol, tuned_protocol
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS, read_results, rows, write_table
from monosem.experiments.stage_cache import Stage, StageCache
from monosem.sparse.sae import SparseAutoencoder

_GIGAFLOPS = 80e9
"""Arithmetic speed the estimates assume: two ordinary CPU cores in single precision."""

Objective = Literal["simclr", "ncl"]


@dataclass(frozen=True)
class Step:
    """A stage, how to make it, and what it is expected to cost."""

    stage: Stage
    make: Callable[[Path, Path], None]
    seconds: float
    megabytes: float = 0.0


class EncoderPair:
    """SimCLR and NCL encoders of one seed, the SAE on SimCLR's features, and everything measured on them.

    Args:
        index: number of the pair; its seed is recipe.seed + index.
        cells: the noisy labels, the same for every pair.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageDataset,
        test: ImageDataset,
        cells: LabelCells,
        cache: StageCache,
        watch: Watch,
        index: int,
    ) -> None:
        self.index = index
        self.seed = recipe.seed + index
        self.cells = cells
        self._recipe = recipe
        self._train = train
        self._test = test
        self._cache = cache
        self._watch = watch
        self._held: dict[str, tuple[Tensor, TestFeatures]] = {}

        data = {"train": train.fingerprint, "test": test.fingerprint}
        pretrain_facts = {name: {"seed": self.seed, "data": data["train"], **self._objective(name).model_dump(mode="json")}
                          for name in _OBJECTIVES}
        self._pretrained = {name: Stage(f"pretrain-{name}", facts) for name, facts in pretrain_facts.items()}
        noise = {**recipe.input_noise.model_dump(mode="json"), "draws": recipe.n_noise, "seed": recipe.seed}
        self._embedded = {n: Stage(f"embed-{n}", data, [stage]) for n, stage in self._pretrained.items()}
        self._embedded_noisy = {
            n: Stage(f"embed-{n}-noisy", {**data, **noise}, [stage]) for n, stage in self._pretrained.items()
        }
        sae_facts = {"seed": self.seed, **recipe.sae.model_dump(mode="json")}
        self._sae = Stage("sae", sae_facts, [self._embedded["simclr"]])
        self._results = {f: self._result_stages(f) for f in FEATURE_SETS}

    @cached_property
    def steps(self) -> list[Step]:
        """Every stage of the pair, in the order of work, with its expected seconds (two cores) and megabytes."""
        recipe, n_train, n_test = self._recipe, len(self._train), len(self._test)
        width = recipe.pretrain.encoder.projector_out
        flops = forward_flops(recipe.pretrain, self._train)
        noisy_images = n_test * len(recipe.input_noise.levels) * recipe.n_noise
        n_probes, n_classes = len(self.cells.levels), self._train.n_classes
        steps = []
        for name in _OBJECTIVES:
            views = 2 * n_train * recipe.pretrain.epochs
            steps.append(Step(self._pretrained[name], partial(self._pretrain, name), 3 * views * flops / _FLOPS, 2))
            megabytes = 4e-6 * (n_train + n_test) * width
            steps.append(
                Step(self._embedded[name], partial(self._embed, name), (n_train + n_test) * flops / _FLOPS, megabytes)
            )
            megabytes = 2e-6 * noisy_images * width
            make = partial(self._embed_noisy, name)
            steps.append(Step(self._embedded_noisy[name], make, noisy_images * flops / _FLOPS, megabytes))
        sae_flops = 12.0 * n_train * recipe.sae.epochs * width * recipe.sae.n_latents
        steps.append(Step(self._sae, self._train_sae, sae_flops / _FLOPS, 1))
        probe_flops = 4.0 * n_train * width * n_probes * n_classes
        cost = {
            "measure": 2.0 * n_test * width * n_classes,
            "tuned": probe_flops * len(recipe.tuned.strengths) / 2,
            "published": probe_flops * recipe.published.epochs,
        }
        for features, stages in self._results.items():
            for kind, stage in stages.items():
                make = partial(self._make_results, kind, features)
                steps.append(Step(stage, make, 0.02 + cost[kind] / _FLOPS, 0.1))
        return steps

    def results(self) -> list[pd.DataFrame]:
        """Tables of every result stage of this pair."""
        stages = [stage for by_kind in self._results.values() for stage in by_kind.values()]
        return [read_results(self._cache.folder(stage) / "results.csv") for stage in stages]

    def correctness(self, features: str) -> dict[tuple[str, str], np.ndarray]:
        """(protocol, condition) -> per-sample correctness of the primary endpoint, [test samples]."""
        found = {}
        for stage in self._results[features].values():
            file = self._cache.folder(stage) / "correctness.safetensors"
            if file.exists():
                for key, values in load_tensors(file).items():
                    protocol, _, condition = key.partition("/")
                    found[protocol, condition] = values.numpy()
        return found

    def release(self) -> None:
        """Forget what was held in memory: the next pair needs the room."""
        self._held.clear()
        for name in ("_bank", "_outputs", "_noisy_outputs"):
            self.__dict__.pop(name, None)

    def _objective(self, name: Objective) -> PretrainSettings:
        return self._recipe.pretrain.replace(objective=name)

    def _result_stages(self, features: str) -> dict[str, Stage]:
        """The stages whose tables make up the results of one feature set."""
        recipe = self._recipe
        inputs = [*self._embedded.values(), self._sae]
        label_noise = {**recipe.label_noise.model_dump(mode="json"), "draws": recipe.n_noise, "seed": recipe.seed}
        facts = {"features": features, "seed": self.seed, "label_noise": label_noise}
        probed = [*inputs, *self._embedded_noisy.values()]
        stages = {
            "measure": Stage("measure", {"features": features, "seed": self.seed}, inputs),
            "tuned": Stage("tuned", {**facts, **recipe.tuned.model_dump(mode="json")}, probed),
        }
        if recipe.published_on == "all" or features in (BASELINE, *METHODS):
            stages["published"] = Stage("published", {**facts, **recipe.published.model_dump(mode="json")}, probed)
        return stages

    def _pretrain(self, name: Objective, output: Path, scratch: Path) -> None:
        trained = pretrain(
            self._train, self._objective(name), self.seed, checkpoint=scratch, device=_device(), watch=self._watch
        )
        save_encoder(output / "encoder", trained.encoder)
        pd.DataFrame(trained.history).to_csv(output / "history.csv", index=False)

    def _encoder(self, name: Objective) -> Encoder:
        return load_encoder(self._cache.folder(self._pretrained[name]) / "encoder")

    def _embed(self, name: Objective, output: Path, scratch: Path) -> None:
        encoder = self._encoder(name)
        for split, dataset in (("train", self._train), ("test", self._test)):
            embed(dataset, encoder, device=_device()).save(output / split)

    def _embed_noisy(self, name: Objective, output: Path, scratch: Path) -> None:
        encoder, test = self._encoder(name), self._test
        cells = self._noise_cells()
        tensors = {}
        for done, (level, draw) in enumerate(cells):
            seed = noise_seed(self._recipe, draw)
            images = add_input_noise(test.images, level, seed, kind=self._recipe.input_noise.kind)
            outputs = embed_images(encoder, images, test.mean, test.std, device=_device())
            tensors[f"{level:g}/{draw}"] = outputs.half()
            self._watch.progress(done + 1, len(cells))
        save_tensors(output / "outputs.safetensors", tensors)

    def _noise_cells(self) -> list[tuple[float, int]]:
        return [(level, draw) for level in self._recipe.input_noise.levels for draw in range(self._recipe.n_noise)]

    def _train_sae(self, output: Path, scratch: Path) -> None:
        features = FeatureSet.open(self._cache.folder(self._embedded["simclr"]) / "train")
        SparseAutoencoder.fit(features, self._recipe.sae, self.seed, watch=self._watch).save(output / "sae")

    @cached_property
    def _outputs(self) -> dict[str, dict[str, Tensor]]:
        """Clean projector outputs, {"train" | "test": {"simclr" | "ncl": [N, D]}}."""
        folders = {name: self._cache.folder(stage) for name, stage in self._embedded.items()}
        return {
            split: {name: torch.from_numpy(FeatureSet.open(f / split).dense()) for name, f in folders.items()}
            for split in ("train", "test")
        }

    @cached_property
    def _noisy_outputs(self) -> dict[str, dict[str, Tensor]]:
        folders = {name: self._cache.folder(stage) for name, stage in self._embedded_noisy.items()}
        return {name: load_tensors(folder / "outputs.safetensors") for name, folder in folders.items()}

    @cached_property
    def _bank(self) -> FeatureBank:
        sae = SparseAutoencoder.load(self._cache.folder(self._sae) / "sae")
        return FeatureBank(self._outputs["train"], self._encoder("ncl"), sae, self.seed)

    def _features(self, features: str) -> tuple[Tensor, TestFeatures]:
        """Training features, and test features with their noisy versions; those of one set are held at a time."""
        if features not in self._held:
            self._held.clear()
            source = source_of(features)
            outputs, noisy = self._outputs, self._noisy_outputs[source]
            apply = partial(self._bank.apply, features)
            test = TestFeatures(
                condition=f"input-noise-{self._recipe.input_noise.kind.replace('_', '-')}",
                labels=self._test.labels,
                clean=apply(outputs["test"][source]),
                noisy=[(level, draw, apply(noisy[f"{level:g}/{draw}"].float())) for level, draw in self._noise_cells()],
            )
            self._held[features] = apply(outputs["train"][source]), test
        return self._held[features]

    def _make_results(self, kind: str, features: str, output: Path, scratch: Path) -> None:
        train, test = self._features(features)
        match kind:
            case "measure":
                outcome = measure(train, self._train, test, self._bank if features == "sae" else None)
            case "tuned":
                outcome = tuned_protocol(train, self.cells, test, self._recipe.tuned)
            case "published":
                outcome = published_protocol(train, self.cells, test, self._recipe.published, self.seed, self._watch)
        facts = {
            "dataset": self._train.name,
            "encoder": self._recipe.pretrain.encoder.backbone,
            "features": features,
            "encoder_seed": self.seed,
        }
        write_table(rows(facts, outcome.rows), output / "results.csv")
        if features in (BASELINE, *METHODS) and outcome.correctness:
            tensors = {f"{protocol}/{condition}": v for (protocol, condition), v in outcome.correctness.items()}
            save_tensors(output / "correctness.safetensors", tensors)

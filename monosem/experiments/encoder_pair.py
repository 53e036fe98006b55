"""One encoder pair at work: pretrain SimCLR and NCL, embed, train the SAE, measure, probe.

Each stage reads the folders of those before it, so any of them can be found again, shared between recipes, or
resumed alone.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from monosem.core.artifacts import load_tensors, save_tensors
from monosem.core.devices import device_errors_explained
from monosem.core.distributed import collected, this_world
from monosem.core.errors import MonosemError, Paused
from monosem.core.progress import PAUSED, Watch
from monosem.data.datasets import ImageDataset
from monosem.data.feature_set import FeatureSet
from monosem.data.image_files import image_blocks
from monosem.encoders.backbones import Encoder, load_encoder, save_encoder
from monosem.encoders.embed import EMBED_ROWS, embed, embed_images
from monosem.encoders.pretrain import Pretrained, pretrain
from monosem.experiments.corrupted_tests import CorruptedImages, CorruptedTest, corrupted_images
from monosem.experiments.feature_sets import FeatureBank, Outputs
from monosem.experiments.grid import (
    Outcome,
    ProbedFeatures,
    corrupt,
    measure,
    published_protocol,
    tuned_protocol,
)
from monosem.experiments.pair_plan import OBJECTIVES, Objective, expected_costs, plan_pair
from monosem.experiments.recipe_data import RecipeData
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS, read_results, rows, write_table
from monosem.experiments.stage_cache import Stage, StageCache
from monosem.experiments.works import Work
from monosem.sparse.evaluate import fvu
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae

_MEMORY_REMEDY = "use a device with more memory, or fewer noise levels or draws"


class EncoderPair:
    """SimCLR and NCL encoders of one seed, the SAE on SimCLR's features, and everything measured on them.

    Args:
        recipe: what to do.
        data: the images.
        cache: where stages lie.
        watch: told how far a stage is.
        index: number of the pair; its seed is recipe.seed + index.

    `works` holds its stages, each after those it reads; whoever asks a further question adds to them.
    """

    def __init__(self, recipe: Recipe, data: RecipeData, cache: StageCache, watch: Watch, index: int) -> None:
        self.recipe = recipe
        self.data = data
        self.cache = cache
        self.watch = watch
        self.index = index
        self.seed = recipe.seed + index
        self.world = this_world()
        # First the labels: whatever is wrong with a file of noise is said here.
        self.noisy_labels = corrupt(data.train, recipe.label_noise, recipe.n_noise, self.seed)
        self.stages = plan_pair(recipe, data, self.seed)
        self.works = list(self._works())

    def run(self, work: Work) -> None:
        """Make one of `works`, unless it is there; among several processes the main one writes it."""
        paused = False
        with device_errors_explained(f"{work.stage.name} on {self.world.device}", _MEMORY_REMEDY):
            try:
                if self.world.is_main:
                    self.cache.run(work.stage, work.make, work.cost.seconds)
                elif work.share is not None and not self.cache.has(work.stage):
                    work.share(self.cache.scratch(work.stage))
            except Paused:
                paused = True
        if self.world.agreed(paused)[0]:  # whoever pauses, all do; here they also wait for each other
            raise Paused(PAUSED)

    def results(self) -> list[pd.DataFrame]:
        """The tables of every stage that has results."""
        return [read_results(self.cache.folder(stage) / "results.csv") for stage in self._with_results()]

    def files(self, name: str) -> list[Path]:
        """The files of this name that stages with results left beside them."""
        found = (self.cache.folder(stage) / name for stage in self._with_results())
        return [file for file in found if file.exists()]

    def correctness(self) -> dict[tuple[str, str, str], np.ndarray]:
        """(features, protocol, condition) -> correctness of each test sample, mean over levels and draws."""
        found = {}
        for stage in self._with_results():
            file = self.cache.folder(stage) / "correctness.safetensors"
            if file.exists():
                for key, values in load_tensors(file).items():
                    protocol, _, condition = key.partition("/")
                    found[stage.settings["features"], protocol, condition] = values.numpy()
        return found

    def release(self) -> None:
        """Forget what is held in memory, to make room for the next pair."""
        self.__dict__.pop("bank", None)

    def encoder(self, name: Objective) -> Encoder:
        """The pretrained encoder, on the CPU in evaluation mode."""
        return load_encoder(self.cache.folder(self.stages.pretrained[name]) / "encoder")

    @cached_property
    def bank(self) -> FeatureBank:
        """Every feature set of this pair, made when asked for."""

        def sae() -> SAE:
            loaded = SAE.load(self.cache.folder(self.stages.sae) / "sae")
            return loaded.to(self.world.device)

        return FeatureBank(self._outputs, lambda: self.encoder("ncl"), sae, self.seed)

    def make_sae(self, settings: SAESettings, watch: Watch, output: Path, scratch: Path) -> None:
        """Train a sparse autoencoder on the SimCLR outputs for the training images, see `Work`."""
        features = FeatureSet.open(self.cache.folder(self.stages.embedded["simclr"]) / "train")
        trained = fit_sae(
            features, settings, seed=self.seed, device=self.world.device, watch=watch, checkpoint=scratch
        )
        trained.save(output / "sae")

    def write_results(self, output: Path, features: str, outcome: Outcome) -> None:
        """Write what a stage with results leaves in its folder, see `Work`."""
        facts = {
            "dataset": self.data.train.name,
            "encoder": self.recipe.pretrain.encoder.backbone,
            "features": features,
            "encoder_seed": self.seed,
        }
        write_table(rows(facts, outcome.rows), output / "results.csv")
        if outcome.correctness:
            tensors = {"/".join(key): values for key, values in outcome.correctness.items()}
            save_tensors(output / "correctness.safetensors", tensors)

    def _with_results(self) -> list[Stage]:
        return [work.stage for work in self.works if work.has_results]

    def _works(self) -> Iterator[Work]:
        """Encoders, what they make of all images, the sparse autoencoder, and probes on every feature set."""
        costs = expected_costs(self.recipe, self.data)
        splits, targets = {"train": self.data.train, "test": self.data.test}, self.data.targets
        of_encoders = (
            (self.stages.pretrained, self._make_encoder, self._pretrain),
            (self.stages.embedded, partial(self._make_embedded, splits), partial(self._embed, splits)),
            (self.stages.corrupted, self._make_corrupted, self._embed_corrupted),
            (self.stages.shifted, partial(self._make_embedded, targets), partial(self._embed, targets)),
        )
        for name in OBJECTIVES:
            for stages, make, share in of_encoders:
                if name in stages:
                    stage = stages[name]
                    yield Work(stage, partial(make, name), costs[stage.name], partial(share, name))
        make_sae = partial(self.make_sae, self.recipe.sae, self.watch)
        yield Work(self.stages.sae, make_sae, costs["sae"])
        for (features, kind), stage in self.stages.results.items():
            make_results = partial(self._make_results, features, kind)
            yield Work(stage, make_results, costs[stage.name], has_results=True)

    def _pretrain(self, name: Objective, scratch: Path) -> Pretrained:
        settings = self.recipe.pretrain.replace(objective=name)
        return pretrain(self.data.pretrain, settings, self.seed, checkpoint=scratch, watch=self.watch)

    def _make_encoder(self, name: Objective, output: Path, scratch: Path) -> None:
        trained = self._pretrain(name, scratch)
        save_encoder(output / "encoder", trained.encoder)
        write_table(pd.DataFrame(trained.history), output / "history.csv")

    def _embed(self, datasets: Mapping[str, ImageDataset], name: Objective, _: Path) -> dict[str, FeatureSet]:
        """Features of the images as they are."""
        encoder = self.encoder(name)
        return {of: embed(dataset, encoder, world=self.world) for of, dataset in datasets.items()}

    def _make_embedded(
        self, datasets: Mapping[str, ImageDataset], name: Objective, output: Path, scratch: Path
    ) -> None:
        for of, embedded in self._embed(datasets, name, scratch).items():
            embedded.save(output / of)

    def _embed_corrupted(self, name: Objective, _: Path) -> dict[str, Tensor]:
        """Half-precision outputs for every corrupted version of the test images, each block read once."""
        encoder = self.encoder(name).to(self.world.device)
        test, own = self.data.test, self.world.part(len(self.data.test))
        images, ids = test.images[own], test.ids[own]
        blocks = -(-len(images) // EMBED_ROWS)
        versions = self._versions()
        outputs: dict[str, list[Tensor]] = {version.name: [] for version in versions}
        for done, (where, clean) in enumerate(image_blocks(images, EMBED_ROWS)):
            for version in versions:
                corrupted = version.corrupt(clean, ids[where])
                z = embed_images(encoder, corrupted, test.mean, test.std, device=self.world.device)
                outputs[version.name].append(_as_half(z))
            self.watch.progress(done + 1, blocks)
        return {of: collected(torch.cat(parts), len(test), self.world) for of, parts in outputs.items()}

    def _make_corrupted(self, name: Objective, output: Path, scratch: Path) -> None:
        save_tensors(output / "outputs.safetensors", self._embed_corrupted(name, scratch))

    def _versions(self) -> list[CorruptedImages]:
        noise = self.recipe.input_noise
        if noise is None:
            return []
        return list(corrupted_images(noise, self.recipe.n_noise, self.seed, self.data.test.std))

    def _outputs(self, name: Objective) -> Outputs:
        """What an encoder puts out, on the device where probes work."""
        embedded = self.cache.folder(self.stages.embedded[name])
        train, test = (self._features(embedded / split) for split in ("train", "test"))
        return Outputs(train, test, [*self._corrupted(name), *self._shifted(name)])

    def _features(self, folder: Path) -> Tensor:
        return torch.from_numpy(FeatureSet.open(folder).dense()).to(self.world.device)

    def _corrupted(self, name: Objective) -> Iterator[CorruptedTest]:
        """The corrupted versions of the test images, read when they are asked for."""
        if name not in self.stages.corrupted:
            return
        outputs = load_tensors(self.cache.folder(self.stages.corrupted[name]) / "outputs.safetensors")
        truth = self.data.test.labels.to(self.world.device)
        for version in self._versions():
            read = partial(outputs[version.name].to, self.world.device)
            yield CorruptedTest(version.condition, version.level, version.draw, truth, read)

    def _shifted(self, name: Objective) -> Iterator[CorruptedTest]:
        """The real shifts, each one level."""
        for target, dataset in self.data.targets.items():
            folder = self.cache.folder(self.stages.shifted[name]) / target
            truth = dataset.labels.to(self.world.device)
            yield CorruptedTest(f"shift-{target}", 1.0, 0, truth, partial(self._features, folder))

    def _fvu(self) -> float:
        """Fraction of variance of the SimCLR features of the test images that the SAE does not explain."""
        dense = self.bank.outputs("simclr")
        return fvu(self.bank.sae(), dense.test, dense.train.mean(dim=0))

    def _make_results(self, features: str, kind: str, output: Path, scratch: Path) -> None:
        made = self.bank.make(features)
        recipe, train, labels = self.recipe, made.train, self.noisy_labels.to(self.world.device)
        test = ProbedFeatures(self.data.test.labels.to(self.world.device), made.test, made.corrupted)
        if kind == "measure":
            outcome = measure(train, self.data.train.labels, test, self.data.train.n_classes)
            if features == "sae":
                outcome.rows.append({**outcome.rows[0], "metric": "fvu", "value": self._fvu()})
        elif kind == "tuned":
            outcome = tuned_protocol(train, labels, test, recipe.tuned, self.seed)
        else:
            outcome = published_protocol(
                train, labels, test, recipe.published, self.seed, self.watch, checkpoint=scratch
            )
        if features not in (BASELINE, *METHODS):  # of controls the intervals over encoders say enough
            outcome = replace(outcome, correctness={})
        self.write_results(output, features, outcome)


def _as_half(outputs: Tensor) -> Tensor:
    """Outputs as float16, half the disk; refused where they do not fit."""
    halved = outputs.half()
    if not halved.isfinite().all():
        raise MonosemError(
            "projector outputs beyond 65,504: the encoder has diverged; lower pretrain.lr_per_256"
        )
    return halved

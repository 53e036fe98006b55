"""One encoder pair at work: pretrain SimCLR and NCL, embed, train the SAE, measure, probe.

Each stage reads the folders of those before it, so any of them can be found again, shared between recipes, or
resumed alone.
"""

from functools import cached_property
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
from monosem.data.input_noise import add_input_noise
from monosem.encoders.backbones import Encoder, load_encoder, save_encoder
from monosem.encoders.embed import EMBED_ROWS, embed, embed_images
from monosem.encoders.pretrain import Pretrained, pretrain
from monosem.experiments.feature_sets import FeatureBank, Outputs
from monosem.experiments.grid import (
    ProbedFeatures,
    corrupt,
    measure,
    noise_cells,
    noise_seed,
    published_protocol,
    tuned_protocol,
)
from monosem.experiments.pair_plan import OBJECTIVES, Objective, plan_pair
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import BASELINE, METHODS, read_results, rows, write_table
from monosem.experiments.stage_cache import Stage, StageCache
from monosem.sparse.sae import SparseAutoencoder
from monosem.sparse.train import fit_sae, fvu

_MEMORY_REMEDY = "use a device with more memory, or fewer noise levels or draws"


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
        self.stages = plan_pair(recipe, train, test, self.seed)
        self.noisy_labels = corrupt(
            train.labels, train.n_classes, recipe.label_noise, recipe.n_noise, self.seed
        )
        self._recipe = recipe
        self._train = train
        self._test = test
        self._cache = cache
        self._watch = watch
        self._world = this_world()
        self._noise_cells = noise_cells(recipe.input_noise.levels, recipe.n_noise)

    def run(self, stage: Stage, expected_seconds: float) -> None:
        """Make one of `stages`, unless it is there; among several processes the main one writes it."""
        paused = False
        with device_errors_explained(f"{stage.name} on {self._world.device}", _MEMORY_REMEDY):
            try:
                if self._world.is_main:
                    self._cache.run(
                        stage, lambda output, scratch: self._make(stage, output, scratch), expected_seconds
                    )
                elif not self._cache.has(stage):
                    self._take_part(stage)
            except Paused:
                paused = True
        if self._world.agreed(paused)[0]:  # whoever pauses, all do; here they also wait for each other
            raise Paused(PAUSED)

    def results(self) -> list[pd.DataFrame]:
        """The tables of every result stage."""
        stages = self.stages.results.values()
        return [read_results(self._cache.folder(stage) / "results.csv") for stage in stages]

    def correctness(self, features: str) -> dict[tuple[str, str], np.ndarray]:
        """(protocol, condition) -> per-sample correctness of the primary endpoint, [test samples]."""
        found = {}
        for (name, _), stage in self.stages.results.items():
            file = self._cache.folder(stage) / "correctness.safetensors"
            if name == features and file.exists():
                for key, values in load_tensors(file).items():
                    protocol, _, condition = key.partition("/")
                    found[protocol, condition] = values.numpy()
        return found

    def release(self) -> None:
        """Forget what is held in memory, to make room for the next pair."""
        self.__dict__.pop("_bank", None)

    def _make(self, stage: Stage, output: Path, scratch: Path) -> None:
        """Write the files of `stage` into `output`."""
        for name in OBJECTIVES:
            if stage is self.stages.pretrained[name]:
                trained = self._pretrain(name, scratch)
                save_encoder(output / "encoder", trained.encoder)
                return write_table(pd.DataFrame(trained.history), output / "history.csv")
            if stage is self.stages.embedded[name]:
                for split, embedded in self._embed(name).items():
                    embedded.save(output / split)
                return None
            if stage is self.stages.embedded_noisy[name]:
                return save_tensors(output / "outputs.safetensors", self._embed_noisy(name))
        if stage is self.stages.sae:
            return self._train_sae(scratch).save(output / "sae")
        for (features, kind), result in self.stages.results.items():
            if stage is result:
                return self._make_results(features, kind, output, scratch)
        raise KeyError(stage.key)

    def _take_part(self, stage: Stage) -> None:
        """Do the share of a process that is not the main one: training and embedding are shared."""
        for name in OBJECTIVES:
            if stage is self.stages.pretrained[name]:
                self._pretrain(name, self._cache.scratch(stage))
            elif stage is self.stages.embedded[name]:
                self._embed(name)
            elif stage is self.stages.embedded_noisy[name]:
                self._embed_noisy(name)

    def _pretrain(self, name: Objective, scratch: Path) -> Pretrained:
        settings = self._recipe.pretrain.replace(objective=name)
        return pretrain(self._train, settings, self.seed, checkpoint=scratch, watch=self._watch)

    def _encoder(self, name: Objective) -> Encoder:
        return load_encoder(self._cache.folder(self.stages.pretrained[name]) / "encoder")

    def _embed(self, name: Objective) -> dict[str, FeatureSet]:
        encoder = self._encoder(name)
        splits = {"train": self._train, "test": self._test}
        return {split: embed(dataset, encoder, world=self._world) for split, dataset in splits.items()}

    def _embed_noisy(self, name: Objective) -> dict[str, Tensor]:
        """Half-precision outputs for the noisy test images of every cell, each block of images read once."""
        encoder, kind = self._encoder(name).to(self._world.device), self._recipe.input_noise.kind
        test, own = self._test, self._world.part(len(self._test))
        images, ids = test.images[own], test.ids[own]
        blocks = -(-len(images) // EMBED_ROWS)
        outputs: dict[str, list[Tensor]] = {_cell_name(*cell): [] for cell in self._noise_cells}
        for done, (where, clean) in enumerate(image_blocks(images, EMBED_ROWS)):
            for level, draw in self._noise_cells:
                noisy = add_input_noise(
                    clean,
                    level,
                    noise_seed(self.seed, draw),
                    kind=kind,
                    ids=ids[where],
                    channel_std=test.std,
                )
                z = embed_images(encoder, noisy, test.mean, test.std, device=self._world.device)
                outputs[_cell_name(level, draw)].append(_as_half(z))
            self._watch.progress(done + 1, blocks)
        return {cell: collected(torch.cat(parts), len(test), self._world) for cell, parts in outputs.items()}

    def _train_sae(self, scratch: Path) -> SparseAutoencoder:
        features = FeatureSet.open(self._cache.folder(self.stages.embedded["simclr"]) / "train")
        return fit_sae(
            features,
            self._recipe.sae,
            seed=self.seed,
            device=self._world.device,
            watch=self._watch,
            checkpoint=scratch,
        )

    @cached_property
    def _bank(self) -> FeatureBank:
        def sae() -> SparseAutoencoder:
            loaded = SparseAutoencoder.load(self._cache.folder(self.stages.sae) / "sae")
            return loaded.to(self._world.device)

        return FeatureBank(self._outputs, lambda: self._encoder("ncl"), sae, self.seed)

    def _outputs(self, name: Objective) -> Outputs:
        """What an encoder puts out, on the device where probes work."""
        device = self._world.device
        folder = self._cache.folder(self.stages.embedded[name])
        noisy = load_tensors(self._cache.folder(self.stages.embedded_noisy[name]) / "outputs.safetensors")
        train, test = (
            torch.from_numpy(FeatureSet.open(folder / split).dense()).to(device)
            for split in ("train", "test")
        )
        return Outputs(train, test, [noisy[_cell_name(*cell)].to(device) for cell in self._noise_cells])

    def _fvu(self) -> float:
        """Fraction of variance of the SimCLR features of the test images that the SAE does not explain."""
        dense = self._bank.outputs("simclr")
        return fvu(self._bank.sae(), dense.test, dense.train.mean(dim=0))

    def _make_results(self, features: str, kind: str, output: Path, scratch: Path) -> None:
        made = self._bank.make(features)
        recipe, train, labels = self._recipe, made.train, self.noisy_labels.to(self._world.device)
        condition = f"input-noise-{recipe.input_noise.kind.replace('_', '-')}"
        truth = self._test.labels.to(self._world.device)
        test = ProbedFeatures(condition, truth, made.test, self._noise_cells, made.noisy)
        if kind == "measure":
            outcome = measure(train, self._train.labels, test, self._train.n_classes)
            if features == "sae":
                outcome.rows.append({**outcome.rows[0], "metric": "fvu", "value": self._fvu()})
        elif kind == "tuned":
            outcome = tuned_protocol(train, labels, test, recipe.tuned, self.seed)
        else:
            outcome = published_protocol(
                train, labels, test, recipe.published, self.seed, self._watch, checkpoint=scratch
            )
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


def _as_half(outputs: Tensor) -> Tensor:
    """Outputs as float16, half the disk; refused where they do not fit."""
    halved = outputs.half()
    if not halved.isfinite().all():
        raise MonosemError(
            "projector outputs beyond 65,504: the encoder has diverged; lower pretrain.lr_per_256"
        )
    return halved


def _cell_name(level: float, draw: int) -> str:
    return f"{level:g}/{draw}"

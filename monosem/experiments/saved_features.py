"""The features of a finished run, found by what its manifest says of them: the images may be gone."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.run_folder import open_run
from monosem.data.feature_set import FeatureSet
from monosem.encoders.backbones import Encoder, load_encoder
from monosem.experiments.feature_sets import FeatureBank, Outputs
from monosem.experiments.pair_plan import OBJECTIVES
from monosem.experiments.recipes import Recipe, recipe_of_run
from monosem.sparse.sae import SAE


@dataclass(frozen=True)
class SavedSplit:
    """Labels int64 [N] and sample ids int64 [N] of the features of one split, and what their images were."""

    labels: Tensor
    ids: Tensor
    class_names: tuple[str, ...]
    fingerprint: str


@dataclass(frozen=True)
class SavedFeatures:
    """One encoder pair of a finished run: `bank` makes any of its feature sets, of both splits."""

    recipe: Recipe
    seed: int
    train: SavedSplit
    test: SavedSplit
    bank: FeatureBank


def saved_features(run: Path, store: Path, pair: int = 0) -> SavedFeatures:
    """Open the features of encoder pair number `pair` of the run in folder `run`; its stages lie in `store`.

    Raises:
        InputError: no finished run, one of another kind or without saved features, or a pair that it lacks.
    """
    manifest = open_run(run)
    tree = manifest.get("recipe", {})
    if isinstance(tree, dict) and "kind" in tree:
        raise InputError(f"{run}: a run about {tree['kind']} has no feature sets")
    recipe = recipe_of_run(tree, f"{run / 'manifest.json'}: recipe")
    if not 0 <= pair < recipe.n_encoders:
        raise InputError(f"{run}: its encoder pairs are 0 to {recipe.n_encoders - 1}; there is no {pair}")
    if not recipe.asks_of_features:
        raise InputError(f"{run}: a run of finetuning alone has no feature sets")
    if "stages" not in manifest:
        raise InputError(
            f"{run}: its manifest does not say where its features lie; bring it up to date with:"
            f" {manifest.get('command')}"
        )
    keys: dict[str, str] = manifest["stages"][pair]

    def folder(of: str) -> Path:
        found = store / keys[of]
        if not found.is_dir():
            raise InputError(
                f"{run}: no saved features ({found} is not there); give the folder of its stages with"
                f" --store, or make them again with: {manifest.get('command')}"
            )
        return found

    @cache  # opening reads everything, to compare checksums
    def opened(of: str, split: str) -> FeatureSet:
        return FeatureSet.open(folder(of) / split)

    def outputs(name: str) -> Outputs:
        train, test = (torch.from_numpy(opened(name, split).dense()) for split in ("train", "test"))
        return Outputs(train, test, [])

    def ncl() -> Encoder:
        return load_encoder(folder("encoder-ncl") / "encoder")

    def sae() -> SAE:
        return SAE.load(folder("sae") / "sae")

    seed = recipe.seed + pair
    images = {
        of["split"]: of for of in reversed(manifest["data"])
    }  # a target may be called test; it is later

    def split(name: str) -> SavedSplit:
        found = opened(OBJECTIVES[0], name)
        labels, ids = torch.from_numpy(found.labels), torch.from_numpy(found.ids)
        return SavedSplit(labels, ids, tuple(images[name]["class_names"]), images[name]["fingerprint"])

    return SavedFeatures(
        recipe,
        seed,
        train=split("train"),
        test=split("test"),
        bank=FeatureBank(outputs, ncl, sae, seed),
    )

"""An encoder pair on digits without encoders: its feature sets are planted, or their rotation."""

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

from torch import Tensor

from monosem.data.datasets import load_dataset
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.feature_sets import Features
from monosem.experiments.recipe_data import RecipeData
from monosem.experiments.recipes import load_recipe
from monosem.experiments.run import RunWatch
from monosem.experiments.stage_cache import StageCache
from monosem.robust.controls import rotation


def planted_pair(
    folder: Path, recipe_name: str, overrides: Sequence[str], planted: Callable[[Tensor], Tensor]
) -> EncoderPair:
    """A pair of which every feature set is `planted(labels)`, and every rotated one its rotation."""
    recipe = load_recipe(recipe_name, overrides)
    train, test = load_dataset(recipe.data)
    pair = EncoderPair(recipe, RecipeData(train, train, test, {}), StageCache(folder), RunWatch(), 0)
    native = [planted(data.labels) for data in (train, test)]
    turn = rotation(native[0].shape[1], seed=7)
    turned = [turn(features) for features in native]
    pair.bank = SimpleNamespace(make=lambda name: Features(*(turned if "rotated" in name else native), []))
    return pair

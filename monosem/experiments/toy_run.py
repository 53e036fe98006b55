"""Run a recipe of toy models: train them all at once, probe them sparsity by sparsity, compare, write."""

import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from monosem.core.artifacts import save_tensors
from monosem.core.progress import SILENT, Watch
from monosem.core.run_folder import RunFolder
from monosem.experiments.make_stages import make_stages, planned_lines
from monosem.experiments.results import said_once, write_table
from monosem.experiments.run import RunWatch
from monosem.experiments.stage_cache import Stage, StageCache
from monosem.experiments.toy_maps import compare_toys, measure_share, train_all
from monosem.experiments.toy_recipe import ToyRecipe
from monosem.experiments.works import Cost, Work

_WEIGHTS, _RESULTS = "weights.safetensors", "results.csv"

MODELS = "models.safetensors"
"""Of a run: weights of the first model of each kind, [S, m, n] by sparsity or [m, n], to be looked at."""


def run_toy(recipe: ToyRecipe, out: Path, store: Path, command: str, watch: RunWatch) -> None:
    """Make every missing stage and write the run folder's manifest, results.csv and comparisons.csv.

    Raises:
        InputError: the run folder holds another run.
        Paused: the time is up; the same request goes on where this one stopped.
    """
    started = time.monotonic()
    cache = StageCache(store, watch.notice)
    works = toy_works(recipe, cache, watch)
    folder = RunFolder.claim(out, recipe.model_dump(mode="json"), recipe.hash, command)
    make_stages(works, cache, folder, watch)
    of_shares = [pd.read_csv(cache.folder(work.stage) / _RESULTS) for work in works[1:]]
    results = pd.concat([said_once(of_share) for of_share in of_shares])
    write_table(results, out / "results.csv")
    write_table(compare_toys(results, recipe), out / "comparisons.csv")
    weights = load_file(cache.folder(works[0].stage) / _WEIGHTS)
    # Of [S, R, m, n] or [R, m, n], the first of the R models.
    save_tensors(out / MODELS, {kind: of.unbind(-3)[0].contiguous() for kind, of in weights.items()})
    folder.log("tables complete", seconds=round(time.monotonic() - started, 1))
    folder.write_manifest(
        command,
        tables_complete=True,
        wall_seconds_total=round(time.monotonic() - started, 1),
        wall_seconds=dict(cache.wall_seconds),
    )


def dry_run_lines(recipe: ToyRecipe, out: Path, store: Path) -> list[str]:
    """The stages of a run, which of them are there, and the time the others are expected to take."""
    cache = StageCache(store)
    return planned_lines(toy_works(recipe, cache, SILENT), cache, "two CPU cores", out)


def toy_works(recipe: ToyRecipe, cache: StageCache, watch: Watch) -> list[Work]:
    """All models in one stage, then one of probes for each sparsity."""
    facts = recipe.model_dump(mode="json")
    world = {key: facts[key] for key in ("seed", "n_models", "model", "sparsity")}
    trained = Stage("toy-models", world)
    probing = {key: value for key, value in facts.items() if key not in ("title", "kind", "margin", *world)}
    n_trained = (2 * len(recipe.sparsity) + 1) * recipe.n_models
    size = recipe.model.n_concepts * (recipe.model.n_dims + recipe.model.batch_size)
    works = [
        Work(trained, partial(_train, recipe, watch), Cost(4e-9 * recipe.model.steps * n_trained * size, 1))
    ]
    for place, share in enumerate(recipe.sparsity):
        stage = Stage("toy-probes", {**probing, "share": share}, (trained,), version=2)
        make = partial(_measure, recipe, cache, trained, place)
        works.append(Work(stage, make, Cost(2.0 * recipe.n_models, 0.2), has_results=True))
    return works


def _train(recipe: ToyRecipe, watch: Watch, output: Path, _: Path) -> None:
    weights = train_all(recipe, watch)
    save_file({kind: weight.contiguous() for kind, weight in weights.items()}, output / _WEIGHTS)


def _measure(recipe: ToyRecipe, cache: StageCache, trained: Stage, place: int, output: Path, _: Path) -> None:
    weights: dict[str, torch.Tensor] = load_file(cache.folder(trained) / _WEIGHTS)
    write_table(measure_share(recipe, weights, place), output / _RESULTS)

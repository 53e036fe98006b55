"""Does superposition make features less robust? Maps over sparsity and noise (4.2, Figure 5b).

Every model gives features of the same samples, which the same probes are fitted on: under label noise and
under input noise apart. `dataset` in the tables is the sparsity, `encoder_seed` the model's seed.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from monosem.core.progress import SILENT, Watch
from monosem.core.seeding import torch_stream
from monosem.core.stats import holm, paired_t, verdict
from monosem.data.noise_source import noise_source
from monosem.experiments.corrupted_tests import CorruptedTest
from monosem.experiments.grid import (
    LabelCells,
    ProbedFeatures,
    label_cells,
    published_protocol,
    tuned_protocol,
)
from monosem.experiments.results import rows
from monosem.experiments.toy_recipe import ToyRecipe
from monosem.explain.toy_model import Output, superposition, top_map, toy_samples, train_toys

SUPERPOSED = "superposed"
"""ReLU models trained on the samples' own sparsity: what the others are compared with."""

APART = ("dense-trained", "linear", "exact")
"""Without superposition: a ReLU model trained where none occurs (S = 0), a linear model trained on the
samples' own sparsity, and the exact map of the most important concepts to a dimension each."""

_KEPT = 0.5  # the norm from which on a concept counts as kept

LABEL_NOISE, INPUT_NOISE = "label-noise-symmetric", "input-noise-gaussian"


def train_all(recipe: ToyRecipe, watch: Watch = SILENT) -> dict[str, Tensor]:
    """Weights of all models by kind: superposed and linear [S, R, m, n], dense-trained [R, m, n]."""
    seeds = recipe.seed + torch.arange(recipe.n_models)
    shares = torch.tensor(recipe.sparsity)
    n_shares, n_models = len(shares), recipe.n_models
    by_share = shares.repeat_interleave(n_models)
    sparsity = torch.cat([by_share, by_share, torch.zeros(n_models)])
    outputs: list[Output] = ["relu"] * len(by_share)
    outputs += ["linear"] * len(by_share)
    outputs += ["relu"] * n_models
    models = train_toys(recipe.model, sparsity, seeds.repeat(2 * n_shares + 1), outputs, watch)
    superposed, linear = models.weight[: 2 * len(by_share)].chunk(2)
    dense = models.weight[2 * len(by_share) :]
    shape = (n_shares, n_models, *models.weight.shape[1:])
    return {SUPERPOSED: superposed.reshape(shape), "linear": linear.reshape(shape), "dense-trained": dense}


def measure_share(recipe: ToyRecipe, weights: dict[str, Tensor], place: int) -> pd.DataFrame:
    """The results of one sparsity: every kind and seed, probed under both noises, and what it keeps."""
    share = recipe.sparsity[place]
    parts = []
    for number in range(recipe.n_models):
        seed = recipe.seed + number
        train, noisy, test, test_labels = drawn(recipe, share, seed)
        for kind in (SUPERPOSED, *APART):
            weight = weight_of(recipe, weights, kind, place, number)
            cells = [
                *_probed(recipe, weight, train, noisy, test, test_labels, seed),
                *_geometry(weight),
            ]
            facts = {"dataset": f"S={share:g}", "encoder": "toy", "features": kind, "encoder_seed": seed}
            parts.append(rows(facts, cells))
    return pd.concat(parts, ignore_index=True)


def drawn(recipe: ToyRecipe, share: float, seed: int) -> tuple[Tensor, LabelCells, Tensor, Tensor]:
    """Training samples [N, n], their labels under every rate of noise, test samples [M, n] and labels [M]."""
    n = recipe.model.n_concepts
    train, train_labels = toy_samples(recipe.n_train, n, share, seed)
    test, test_labels = toy_samples(recipe.n_test, n, share, seed + 1_000_003)
    source = noise_source("symmetric", train_labels, [str(i) for i in range(n)])
    return train, label_cells(LABEL_NOISE, source, recipe.label_noise, 1, seed), test, test_labels


def weight_of(recipe: ToyRecipe, weights: dict[str, Tensor], kind: str, place: int, number: int) -> Tensor:
    """Of a kind, the model [m, n] of this number at the sparsity in this place."""
    if kind == "exact":
        return top_map(recipe.model.n_concepts, recipe.model.n_dims).weight[0]
    return weights[kind][number] if kind == "dense-trained" else weights[kind][place, number]


def _probed(
    recipe: ToyRecipe,
    weight: Tensor,
    train: Tensor,
    noisy: LabelCells,
    test: Tensor,
    test_labels: Tensor,
    seed: int,
) -> Iterator[dict[str, object]]:
    direction = torch.randn(test.shape, generator=torch_stream(seed, "toy_input_noise"))
    corrupted = [
        CorruptedTest(INPUT_NOISE, sigma, 0, test_labels, partial(_noisy, weight, test, direction, sigma))
        for sigma in recipe.input_noise
    ]
    probed = ProbedFeatures(test_labels, test @ weight.T, corrupted)
    for found in (
        published_protocol(train @ weight.T, noisy, probed, recipe.published, seed),
        tuned_protocol(train @ weight.T, noisy, probed, recipe.tuned, seed),
    ):
        # The oracle would be a bound on each probe, of which there are thousands here.
        yield from (row for row in found.rows if row["protocol"] != "oracle")


def _noisy(weight: Tensor, test: Tensor, direction: Tensor, sigma: float) -> Tensor:
    return (test + sigma * direction) @ weight.T


def _geometry(weight: Tensor) -> Iterator[dict[str, object]]:
    found = superposition(weight[None])
    kept = found.norm[0] > _KEPT
    values = {
        "concepts_kept": float(kept.sum()),
        "interference": float(found.interference[0][kept].mean()) if kept.any() else None,
        "dimensionality": float(found.dimensionality[0][kept].mean()) if kept.any() else None,
    }
    for metric, value in values.items():
        yield {
            "protocol": "none", "condition": "clean", "level": 0.0, "noise_seed": 0,
            "metric": metric, "value": value, "n": len(kept),
        }  # fmt: skip


def compare_toys(results: pd.DataFrame, recipe: ToyRecipe) -> pd.DataFrame:
    """Each kind without superposition minus the superposed one, in every cell of every map, over models.

    p is corrected by Holm over the cells of one map (a kind, a protocol and a noise).
    """
    accuracy = results[results["metric"] == "accuracy"]
    table = accuracy.pivot_table(
        index=["protocol", "condition", "dataset", "level", "encoder_seed"],
        columns="features",
        values="value",
    )
    found = []
    for (protocol, condition, dataset, level), models in table.groupby(level=[0, 1, 2, 3], sort=False):
        for kind in APART:
            differences = (models[kind] - models[SUPERPOSED]).to_numpy()
            result = paired_t(differences)
            found.append(
                {
                    "dataset": dataset, "encoder": "toy", "protocol": protocol, "condition": condition,
                    "level": level, "baseline": SUPERPOSED, "features": kind, "mean_diff": result.mean,
                    "ci_low": result.low, "ci_high": result.high, "p": result.p, "n": result.n,
                }
            )  # fmt: skip
    compared = pd.DataFrame(found)
    maps = compared.groupby(["protocol", "condition", "features"])["p"]
    compared["p_holm"] = maps.transform(holm)
    judged = compared[["mean_diff", "ci_low", "ci_high", "p_holm"]].to_numpy(np.float64)
    compared["verdict"] = [
        verdict(mean, low, high, p, recipe.n_models, recipe.margin) for mean, low, high, p in judged
    ]
    return compared

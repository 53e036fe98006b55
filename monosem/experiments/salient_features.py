"""Salience: what probes trained on noisy labels lean on, and whether that goes with being right (4.1).

Each feature set is asked beside its own rotation. Dimensions are scored on the training images and their true
labels, probes on the test images, so that no sample speaks for itself.
"""

import json
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from monosem.core.artifacts import save_tensors
from monosem.core.seeding import torch_stream
from monosem.core.stats import rank_correlation
from monosem.data.codes import Codes
from monosem.data.thumbnails import thumbnails
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.grid import Outcome, Row
from monosem.experiments.pair_plan import noisy_label_facts, settings_facts
from monosem.experiments.recipe_parts import SalienceGrid
from monosem.experiments.results import BASELINE, METHODS, SALIENT_COLUMNS, read_table, write_table
from monosem.experiments.stage_cache import Stage
from monosem.experiments.works import Cost, Work
from monosem.explain.salience import SalientClass, salient_classes, scores_by_outcome, top_samples
from monosem.measures.blocks import Rows
from monosem.measures.consistency import matched_monosemanticity, native_monosemanticity
from monosem.robust.probe import LinearProbes, train_probes
from monosem.robust.ridge import RidgePath

Scores = dict[str, NDArray[np.float64]]
"""Of the D dimensions, by "matched" and "native"; corrected for chance, nan where not scored."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""What a table keeps of a distribution."""

SALIENT_TABLE = "salient.csv"
"""Of a stage and of a run: which dimensions are shown, and the test samples that activate each most."""

SALIENT_PICTURES = "salient.safetensors"
"""Of a run: the pictures of the samples in its table that belong to the first pair."""

_FEWEST = 4
"""Classes that a rank correlation is measured over."""


def works(pair: EncoderPair) -> Iterator[Work]:
    """What probes lean on, for the dense features and every method, and for the rotation of each."""
    grid, recipe = pair.recipe.salience, pair.recipe
    if grid is None:
        return
    facts = {
        "seed": pair.seed,
        "classes": pair.data.train.n_classes,
        **noisy_label_facts(recipe, pair.data.train, pair.seed),
        "published": settings_facts(recipe.published),
        "tuned": settings_facts(recipe.tuned),
        "shown": settings_facts(grid),
    }
    costs = {work.stage.name: work.cost for work in pair.works}
    cost = Cost(sum(costs[name].seconds for name in ("measure", "published", "tuned")), 0.1)
    for native in (BASELINE, *METHODS):
        for features in (native, f"rotated-{native}"):
            stage = Stage("salience", {"features": features, **facts}, pair.stages.read_by(features))
            yield Work(stage, partial(_make, pair, grid, features), cost, has_results=True)


def write_salient(pairs: Sequence[EncoderPair], out: Path) -> None:
    """Write `salient.csv` of a run, and small pictures of the samples that it lists of the first pair.

    Stages know classes by their numbers, whatever they are called. `salient.safetensors` holds `rows` int64
    [n] of the test images and their `pixels` uint8 [n, C, h, w].
    """
    files = [file for pair in pairs for file in pair.files(SALIENT_TABLE)]
    table = pd.concat([read_table(file, SALIENT_COLUMNS, text=("class",)) for file in files])
    data = pairs[0].data
    names = data.test.class_names
    table["dataset"] = data.train.name
    table["class"] = [names[int(k)] if k else "" for k in table["class"]]
    table["sample_classes"] = [
        json.dumps([names[k] for k in json.loads(of)]) for of in table["sample_classes"]
    ]
    write_table(table, out / SALIENT_TABLE)
    listed = table.loc[table["encoder_seed"] == pairs[0].seed, "samples"]
    rows = sorted({row for samples in listed for row in json.loads(samples)})
    pictures = dict(zip(rows, thumbnails(data.test.images, rows), strict=True))
    there = {row: pixels for row, pixels in pictures.items() if pixels is not None}
    if there:
        pixels = torch.stack(list(there.values()))
        save_tensors(out / SALIENT_PICTURES, {"rows": torch.tensor(list(there)), "pixels": pixels})


def _make(pair: EncoderPair, grid: SalienceGrid, features: str, output: Path, scratch: Path) -> None:
    made, noisy, test = pair.bank.make(features), pair.noisy_labels, pair.data.test
    truth, n_classes = pair.data.train.labels, noisy.n_classes
    scores = {
        "matched": matched_monosemanticity(made.train, truth, n_classes).corrected,
        "native": native_monosemanticity(made.train, truth, n_classes).corrected,
    }
    rows, shown = [], list(_drawn(pair, grid, made.test, scores))
    for protocol, probes in _probes(pair, made.train, scratch).items():
        predictions = probes.predict(made.test).cpu()
        for cell, (level, draw) in enumerate(noisy.cells):
            place = {"protocol": protocol, "condition": noisy.condition, "level": level, "noise_seed": draw}
            classes = salient_classes(
                probes.weight[cell],
                made.test,
                test.labels,
                predictions[cell],
                n_classes=n_classes,
                n_samples=grid.n_samples,
            )
            right = predictions[cell] == test.labels
            rows += [{**place, **row} for row in _readings(made.test, scores, right, classes)]
            shown += [{**place, **row} for row in _ends(pair, grid, scores, classes)]
    pair.write_results(output, features, Outcome(rows, {}))
    facts = {
        "dataset": pair.data.train.name,
        "encoder": pair.recipe.pretrain.encoder.backbone,
        "features": features,
        "encoder_seed": pair.seed,
    }
    table = pd.DataFrame([{**facts, **row} for row in shown])
    write_table(table.reindex(columns=list(SALIENT_COLUMNS)), output / SALIENT_TABLE)


def _probes(pair: EncoderPair, train: Tensor | Codes, scratch: Path) -> dict[str, LinearProbes]:
    """Probes of all cells, with the paper's settings and tuned."""
    recipe, noisy = pair.recipe, pair.noisy_labels.to(pair.world.device)
    fits = RidgePath.fit(train).solve(noisy.labels, noisy.n_classes, recipe.tuned, pair.seed)
    published = train_probes(
        train, noisy.labels, noisy.n_classes, recipe.published, pair.seed, pair.watch, scratch
    )
    return {"published": published, "tuned": fits.probes(fits.tuned())}


def _readings(
    features: Rows, scores: Scores, right: Tensor, classes: Sequence[SalientClass]
) -> Iterator[Row]:
    """Of one probe: scores of samples' most active dimensions by outcome, and of classes' salient ones."""
    for name, of_dimensions in scores.items():
        found = scores_by_outcome(features, of_dimensions, right)
        for side, values in (("right", found.right), ("wrong", found.wrong)):
            if len(values):
                metric = f"salient_{name}_{side}"
                yield {"metric": metric, "value": values.mean(), "n": len(values)}
                for quantile, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True):
                    yield {"metric": f"{metric}_q{100 * quantile:02.0f}", "value": value, "n": len(values)}
        n = len(found.right) + len(found.wrong)
        if np.isfinite(found.p):
            yield {"metric": f"salient_{name}_superiority", "value": found.superiority, "n": n}
            yield {"metric": f"salient_{name}_p", "value": found.p, "n": n}
        of_classes = np.array([[one.accuracy, of_dimensions[one.dimension]] for one in classes])
        of_classes = of_classes[np.isfinite(of_classes).all(1)]
        if len(of_classes) >= _FEWEST:
            accuracies, found_scores = of_classes.T
            rho = rank_correlation(accuracies, found_scores, np.zeros(len(of_classes))).mean
            yield {"metric": f"salient_{name}_correlation", "value": rho, "n": len(of_classes)}


def _ends(
    pair: EncoderPair, grid: SalienceGrid, scores: Scores, classes: Sequence[SalientClass]
) -> Iterator[Row]:
    """The most and the least accurate classes, with the dimension each leans on."""
    tested = [one for one in classes if np.isfinite(one.accuracy)]
    n = min(grid.n_classes, len(tested) // 2)
    for end, ordered in (("best", tested), ("worst", tested[::-1])):
        for number, one in enumerate(ordered[:n]):
            yield {
                "shown": f"{end} {number + 1}",
                "class": one.label,
                "accuracy": one.accuracy,
                "weight": one.weight,
                **_dimension(pair, scores, one.dimension, one.samples),
            }


def _drawn(pair: EncoderPair, grid: SalienceGrid, features: Rows, scores: Scores) -> Iterator[Row]:
    """Dimensions drawn at random, the same numbers for feature sets of one width (Fig. 1a)."""
    generator = torch_stream(pair.seed, "salience", "dimensions")
    drawn = torch.randperm(features.shape[1], generator=generator)[: grid.n_dimensions]
    samples = top_samples(features, drawn, grid.n_samples)
    for number, dimension in enumerate(drawn.tolist()):
        yield {
            "shown": f"random {number + 1}",
            **_dimension(pair, scores, dimension, samples[number]),
        }


def _dimension(pair: EncoderPair, scores: Scores, dimension: int, samples: NDArray[np.int64]) -> Row:
    """A dimension, its scores, and the test samples that activate it most, by row and class."""
    active = samples[samples >= 0]
    return {
        "dimension": dimension,
        **{name: values[dimension] for name, values in scores.items()},
        "samples": json.dumps(active.tolist()),
        "sample_classes": json.dumps(pair.data.test.labels[active].tolist()),
    }

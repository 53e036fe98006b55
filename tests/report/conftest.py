"""A run that never happened: results as a real one writes them, with known gains, losses, ties and doubts."""

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from monosem.core.artifacts import write_json_atomic
from monosem.experiments.attribution import RUNGS
from monosem.experiments.comparisons import Correctness, compare
from monosem.experiments.recipes import load_recipe
from monosem.experiments.results import BASELINE, METHODS, PROTOCOLS, rows, write_table

LEVELS = {
    "label-noise-symmetric": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "input-noise-gaussian": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
}
TEST_SAMPLES = 600
TRAIN_SAMPLES = 1197
DENSE_DROP = 0.55
MARGIN = 0.01

SETS = (BASELINE, *METHODS)
FEATURE_SETS = (
    *SETS,
    *dict.fromkeys(
        template.format(method=method)
        for _, template, _ in RUNGS
        for method in METHODS
        if template not in ("{baseline}", "{method}")
    ),
    "ncl-before-relu",
    "sae-reconstruction",
)

# What the strongest corruption costs beyond (or short of) what it costs the dense features.
EXTRA_DROP = {
    ("published", "label-noise-symmetric"): {"ncl": 0.08, "sae": 0.12, "random-topk-like-sae": 0.09},
    ("tuned", "label-noise-symmetric"): {"ncl": 0.012, "sae": -0.10, "spectrum-of-sae": -0.02,
                                         "random-topk-like-sae": -0.05, "random-topk-like-ncl": 0.05},
    ("oracle", "label-noise-symmetric"): {"ncl": 0.0, "sae": -0.06},
    ("published", "input-noise-gaussian"): {"ncl": -0.05, "sae": 0.0},
    ("tuned", "input-noise-gaussian"): {"ncl": -0.04, "sae": 0.015},
    ("oracle", "input-noise-gaussian"): {"ncl": -0.04, "sae": 0.005},
}  # fmt: skip
# Comparisons whose differences vary so much between encoders that they stay open.
OPEN = {("ncl", "tuned", "label-noise-symmetric"), ("sae", "published", "input-noise-gaussian")}

# Sets whose tuned choice lies at the grid's edge at the highest rate of wrong labels.
AT_EDGE = ("sae", "crelu")

MakeResults = Callable[..., pd.DataFrame]


def make_results(n_encoders: int = 6, n_noise: int = 3, published_on: str = "all") -> pd.DataFrame:
    """Rows of results.csv for every feature set, protocol, condition, level, encoder and noise draw."""
    cells: list[dict[str, Any]] = []
    for encoder in range(n_encoders):
        shared = np.random.default_rng(encoder).normal(0, 0.008)
        for features in FEATURE_SETS:
            # Probes that are rotation-equivariant see a set and its rotation alike.
            rng = np.random.default_rng([encoder, FEATURE_SETS.index(features.removeprefix("rotated-"))])
            cells += _measured(features, encoder, np.random.default_rng(7 + encoder))
            for protocol in PROTOCOLS:
                if protocol == "published" and published_on == "methods" and features not in SETS:
                    continue
                for condition, levels in LEVELS.items():
                    own = rng.normal(shared, _spread(features.removeprefix("rotated-"), protocol, condition))
                    for level in (0.0, *levels):
                        for draw in range(n_noise if level else 1):
                            key = {"features": features, "protocol": protocol, "condition": condition,
                                   "level": level, "encoder_seed": encoder, "noise_seed": draw}  # fmt: skip
                            value = _accuracy(features, protocol, condition, level)
                            value += own + rng.normal(0, 0.004)
                            cells += [{**key, **cell} for cell in _probed(key, value)]
    return rows({"dataset": "digits", "encoder": "small_conv"}, cells)


def _spread(features: str, protocol: str, condition: str) -> float:
    return 0.02 if (features, protocol, condition) in OPEN else 0.004


def _accuracy(features: str, protocol: str, condition: str, level: float) -> float:
    drops = EXTRA_DROP[protocol, condition]
    extra = drops.get(features.removeprefix("rotated-"), 0.01)
    drop = DENSE_DROP + (0.0 if features == BASELINE else extra)
    drop *= 1.0 if protocol == "published" else 0.6
    strength = level / LEVELS[condition][-1]
    return 0.93 - drop * strength**2


def _probed(key: dict[str, Any], accuracy: float) -> Iterator[dict[str, Any]]:
    protocol, condition, level = key["protocol"], key["condition"], key["level"]
    yield {"metric": "accuracy", "value": round(accuracy * TEST_SAMPLES) / TEST_SAMPLES, "n": TEST_SAMPLES}
    if condition.startswith("label-noise") and level > 0:
        flipped = round(level * TRAIN_SAMPLES)
        memorised = 0.55 * level if protocol == "published" else 0.15 * level
        yield {"metric": "memorised", "value": round(memorised * flipped) / flipped, "n": flipped}
        yield {"metric": "label_signal", "value": 1 - level * 10 / 9, "n": TRAIN_SAMPLES}
    if condition.startswith("label-noise") and protocol == "tuned":
        yield {"metric": "strength", "value": 10.0 ** round(4 * level - 6), "n": TRAIN_SAMPLES}
        yield {"metric": "at_edge", "value": float(key["features"] in AT_EDGE and level == 0.8)}


def _measured(features: str, encoder: int, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    key = {"features": features, "protocol": "measured", "condition": "clean", "level": 0.0,
           "encoder_seed": encoder, "noise_seed": 0, "n": TEST_SAMPLES}  # fmt: skip
    sparse = features in (*METHODS, "relu", "crelu") or features.startswith("random-topk")
    width = 512 if features == "crelu" else 256
    native = {"ncl": 0.42, "sae": 0.61, "relu": 0.22, "crelu": 0.21}.get(features, 0.18 if sparse else 0.0)
    matched = {"ncl": 0.58, "sae": 0.66, BASELINE: 0.31}.get(features, 0.27)
    values = {
        "native_monosemanticity": native + rng.normal(0, 0.01) if sparse else 0.0,
        "native_monosemanticity_unweighted": native + 0.05 if sparse else 0.0,
        "native_monosemanticity_chance": 0.19 if sparse else 0.104,
        "native_monosemanticity_dimensions": width,
        "matched_monosemanticity": matched + rng.normal(0, 0.01),
        "matched_monosemanticity_unweighted": matched + 0.01,
        "matched_monosemanticity_chance": 0.183,
        "matched_monosemanticity_dimensions": width,
        "l0": {"ncl": 41.3, "sae": 16.0}.get(features, width / 2 if sparse else width),
        "active_dimensions": {"ncl": 231, "sae": 249}.get(features, width),
        "effective_dimension": {"ncl": 21.4, "sae": 38.2, BASELINE: 11.7}.get(features, 14.0),
        "dimensions": width,
        "knn_accuracy": 0.94 + rng.normal(0, 0.004),
    }
    if features == "sae":
        values["fvu"] = 0.083 + rng.normal(0, 0.003)
    for metric, value in values.items():
        yield {**key, "metric": metric, "value": float(value)}


def make_correctness(n_encoders: int = 6) -> Correctness:
    """Per-sample correctness of the baseline and the methods whose means differ as the accuracies do."""
    rng = np.random.default_rng(11)
    found = {}
    for protocol in PROTOCOLS:
        for condition, levels in LEVELS.items():
            for features in (BASELINE, *METHODS):
                rate = np.mean([_accuracy(features, protocol, condition, level) for level in levels])
                correct = rng.random((n_encoders, TEST_SAMPLES)) < rate
                found[features, protocol, condition] = correct.astype(float)
    return found


def make_manifest() -> dict[str, Any]:
    """The manifest of a finished run whose recipe tries to be markup."""
    data = {"name": "digits", "classes": 10, "fingerprint": "0f" * 32, "licence": "CC BY 4.0"}
    return {
        "complete": True,
        "command": "monosem run digits --set title=<i>",
        "recipe_hash": "ab" * 32,
        "versions": {"python": "3.11.2", "monosem": "0.1.0", "torch": "2.13.0"},
        "machine": {"system": "Linux x86_64", "device": "cpu", "threads": 2, "python": "cpython"},
        "data": [
            {**data, "split": "train", "samples": TRAIN_SAMPLES},
            {**data, "split": "test", "samples": TEST_SAMPLES},
        ],
        "wall_seconds_total": 201.4,
        "wall_seconds": {"simclr": 60.2, "ncl": 61.3, "sae": 20.1, "probes": 50.5},
        "recipe": {"title": "Digits <script>alert(1)</script> & noise", "margin": MARGIN, "seed": 0},
    }


def epoch_lines(n_epochs: int = 20, pairs: int = 1) -> list[str]:
    """Lines of log.jsonl as a run writes them, kNN accuracy and monosemanticity on some epochs only."""
    lines = [json.dumps({"time": "2026-01-01T00:00:00+00:00", "event": "stage made", "stage": "x"})]
    for of, pair in product(("simclr", "ncl", "sae"), range(pairs)):
        for epoch in range(1, n_epochs + 1):
            done, ncl = epoch / n_epochs, of == "ncl"
            line = {"time": "2026-01-01T00:00:00+00:00", "event": "epoch", "of": of, "pair": pair,
                    "epoch": epoch, "loss": 6.2 - 2.1 * done**0.5 + 0.2 * ncl + 0.03 * pair}  # fmt: skip
            if of != "sae":
                line |= {"lr": 0.4 * min(4 * done, (4 - 4 * done) / 3), "alignment": 1.1 - 0.7 * done,
                         "uniformity": -0.3 - 2.9 * done, "dead_share": 0.6 * done * ncl,
                         "active_dimensions": 2048 - 1200 * done * ncl,
                         "sparsity": 0.9 * done**0.3 * ncl}  # fmt: skip
                if epoch % 5 == 0:
                    line |= {"knn_accuracy": 0.5 * done, "matched_monosemanticity": (0.1 + 0.2 * ncl) * done}
            lines.append(json.dumps(line))
    return lines


@pytest.fixture(scope="session", name="make_results")
def _make_results() -> MakeResults:
    return make_results


@pytest.fixture(scope="session")
def results() -> pd.DataFrame:
    return make_results()


@pytest.fixture(scope="session")
def comparisons(results: pd.DataFrame) -> pd.DataFrame:
    return compare(results, MARGIN, make_correctness())


@pytest.fixture(scope="session")
def run_folder(
    tmp_path_factory: pytest.TempPathFactory, results: pd.DataFrame, comparisons: pd.DataFrame
) -> Path:
    """A finished run without its reports."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    write_json_atomic(folder / "manifest.json", make_manifest())
    write_table(results, folder / "results.csv")
    write_table(comparisons, folder / "comparisons.csv")
    return folder


@pytest.fixture(scope="session")
def paper_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one encoder pair beside the paper's table, with the log of its pretraining."""
    folder = tmp_path_factory.mktemp("runs") / "table1"
    results = make_results(n_encoders=1, published_on="methods")
    recipe = load_recipe("table1-cifar100", ["pretrain.epochs=20", "data.train_limit=1197"])
    write_json_atomic(folder / "manifest.json", {**make_manifest(), "recipe": recipe.model_dump(mode="json")})
    write_table(results, folder / "results.csv")
    write_table(compare(results, MARGIN), folder / "comparisons.csv")
    (folder / "log.jsonl").write_text("\n".join(epoch_lines()) + "\n")
    return folder

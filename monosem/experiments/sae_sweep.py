"""Sparse autoencoders of several shapes on one set of features, trained side by side and set side by side.

What a shape is worth is a trade: fewer active latents are easier to read and explain less. So every SAE gets
its unexplained variance, its mean number of active latents and, where features are labelled, how far the
samples that activate a latent are of one class.
"""

import itertools
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from monosem.core.artifacts import fingerprint_json
from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Watch
from monosem.core.run_folder import RunFolder
from monosem.core.settings import parse, with_overrides
from monosem.data.feature_set import FeatureSet
from monosem.experiments.results import write_table
from monosem.measures.consistency import matched_monosemanticity
from monosem.measures.geometry import mean_and_rms
from monosem.sparse.evaluate import sae_quality
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_saes, untrained

SHORT_NAMES = {"latents": "n_latents"}
"""How a setting may be called on the command line."""

_FLOPS = 8e10


def variants_of(overrides: Iterable[str], swept: Iterable[str]) -> dict[str, SAESettings]:
    """Every combination of the swept settings, by name.

    Args:
        overrides: "key=value" for all of them.
        swept: "key=value,value,..." for what varies; `latents` is short for `n_latents`.

    Raises:
        InputError: unknown keys or values that are not allowed, a key that is given twice, or a value that
            repeats.
    """
    fixed = [_long(override) for override in overrides]
    axes: dict[str, list[str]] = {}
    for item in swept:
        key, equals, values = _long(item).partition("=")
        listed = [value.strip() for value in values.split(",")]
        if not equals or not all(listed):
            raise InputError(f"--sweep {item}: write it as key=value,value, for example k=16,32,64")
        if key in axes or any(override.startswith(f"{key}=") for override in fixed):
            raise InputError(f"--sweep {item}: {key} is given twice; give it once")
        if len(set(listed)) < len(listed):
            raise InputError(f"--sweep {item}: a value is given twice; give it once")
        axes[key] = listed
    found = {}
    for combined in itertools.product(*axes.values()):
        chosen = [f"{key}={value}" for key, value in zip(axes, combined, strict=True)]
        name = ",".join(chosen).replace("/", "-") or "sae"
        found[name] = parse(SAESettings, with_overrides({}, [*fixed, *chosen]), "monosem sae")
    return found


def expected_seconds(features: FeatureSet, variants: Iterable[SAESettings]) -> float:
    """About what training takes on two CPU cores."""
    return sum(settings.training_flops(len(features), features.dim) for settings in variants) / _FLOPS


def run_sweep(
    features: FeatureSet,
    variants: Mapping[str, SAESettings],
    out: Path,
    command: str,
    *,
    held_out: FeatureSet | None = None,
    seed: int = 0,
    device: torch.device | str = "cpu",
    watch: Watch = SILENT,
) -> pd.DataFrame:
    """Train all variants on the same batches; the run folder gets each SAE and `results.csv`.

    held_out: features of other samples through the same encoder, on which everything is read; None: it is
    read on the training features, and the table says so.
    Raises:
        InputError: the folder holds another run, settings that do not go together, features at fault.
        Paused: the time is up; the same call goes on where this one stopped.
    """
    started = time.monotonic()
    settings = {name: variant.model_dump(mode="json") for name, variant in variants.items()}
    facts = {
        "kind": "sae",
        "variants": settings,
        "seed": seed,
        "features": features.fingerprint,
        "held_out": None if held_out is None else held_out.fingerprint,
    }
    untrained(list(variants.values()), features.dim, held_out)  # before the folder is taken
    folder = RunFolder.claim(out, facts, fingerprint_json(facts), command)
    saes = fit_saes(
        features,
        list(variants.values()),
        seed=seed,
        held_out=held_out,
        checkpoint=out / "unfinished",
        device=device,
        watch=watch,
    )
    measured = features if held_out is None else held_out
    mean, _ = mean_and_rms(features)
    rows = []
    for name, sae in zip(variants, saes, strict=True):
        sae.save(out / "saes" / name)
        shape = {"n_latents": sae.n_latents, "k": sae.k, "activation": sae.settings.activation}
        quality = {
            key: value
            for key, value in asdict(sae_quality(sae, measured, mean=mean)).items()
            if value is not None
        }
        of_labels = {"monosemanticity": _monosemanticity(sae, measured)}
        rows.append(
            {
                "sae": name,
                **shape,
                **quality,
                **of_labels,
                "read_on": "training" if held_out is None else "held out",
            }
        )
    table = pd.DataFrame(rows)
    write_table(table, out / "results.csv")
    seconds = round(time.monotonic() - started, 1)
    folder.log("tables complete", seconds=seconds)
    folder.write_manifest(command, tables_complete=True, wall_seconds_total=seconds)
    shutil.rmtree(out / "unfinished", ignore_errors=True)
    return table


def _monosemanticity(sae: SAE, features: FeatureSet) -> float | None:
    """Matched, corrected for chance, weighted by support; None without at least two classes."""
    labels = features.labels
    if labels.min() < 0 or len(np.unique(labels)) < 2:
        return None
    scores = matched_monosemanticity(sae.encode_sparse(features), labels, int(labels.max()) + 1)
    return scores.mean(scores.corrected, weighted=True)


def _long(item: str) -> str:
    key, equals, value = item.partition("=")
    return f"{SHORT_NAMES.get(key.strip(), key.strip())}{equals}{value}"

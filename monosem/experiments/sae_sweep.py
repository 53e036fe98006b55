"""Sparse autoencoders of several shapes on one set of features, trained side by side and set side by side.

What a shape is worth is a trade: fewer active latents are easier to read and explain less. So every SAE gets
its unexplained variance, its mean number of active latents and, where features are labelled, how far the
samples that activate a latent are of one class, and how much of a probe's accuracy is left on what it
rebuilds. Beside it stands what the features themselves reach, and the SAE before it learned: sparse codes of
a random dictionary.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from monosem.core.artifacts import check_replaceable, fingerprint_arrays, fingerprint_json, read_json
from monosem.core.devices import device_errors_explained
from monosem.core.distributed import World, this_world
from monosem.core.drafts import sweep_drafts
from monosem.core.progress import SILENT, Portion, Watch
from monosem.core.run_folder import RunFolder
from monosem.data.feature_set import FeatureSet
from monosem.data.rows import spread_rows
from monosem.experiments.results import write_table
from monosem.experiments.sae_plan import Member, Sweep
from monosem.measures.blocks import Features
from monosem.measures.consistency import matched_monosemanticity
from monosem.robust.probe_score import probe_accuracy
from monosem.sparse.evaluate import Reconstructions, sae_quality
from monosem.sparse.initialise import Start, initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.train import fit_saes

_UNFINISHED = "unfinished"
_JUDGED = 2**17
"""So many samples at most say how monosemantic latents are: their codes are in memory at once."""


class Classes(NamedTuple):
    """Labels of samples, numbered from 0, [N]; how many classes; top samples a dimension is judged by."""

    labels: np.ndarray
    n: int
    top: int


def run_sweep(sweep: Sweep, out: Path, command: str, watch: Watch = SILENT) -> None:
    """Train all SAEs on the same batches; the run folder gets each, `results.csv` and `training.csv`.

    SAEs that are there are not trained again; with other labels than before they are read again. Under
    `torchrun` or `accelerate launch` all processes train; the main one does the rest.

    Raises:
        InputError: the folder holds another run, settings that do not go together, features at fault.
        Paused: the time is up; the same call goes on where this one stopped.
    """
    started = time.monotonic()
    world = this_world()
    sweep.check()
    folder = _folder(sweep, out)
    there = world.from_main(lambda: _there(folder, sweep))
    if there == "tables" or (there == "SAEs" and not world.is_main):
        return
    # Refuses features before the folder is taken.
    start = starting_point(sweep.features, sweep.members[0].settings)
    world.from_main(lambda: _claim(folder, sweep, command))
    reading = sum(sweep.n_seeds * sweep.reading_seconds(one) for one in sweep.variants.values())
    units = [round(1000 * seconds) + 1 for seconds in (sweep.seconds - reading, sweep.seconds)]
    remedy = "train fewer SAEs at a time, or set batch_size lower"
    with device_errors_explained(f"SAEs on {world.device}", remedy):
        if there == "SAEs":
            saes = [SAE.load(out / member.place) for member in sweep.members]
        else:
            saes = fit_saes(
                sweep.features,
                [member.settings for member in sweep.members],
                seed=sweep.seed,
                init_seeds=[member.seed for member in sweep.members],
                held_out=sweep.held_out,
                start=start,
                window_bytes=sweep.window_bytes,
                checkpoint=out / _UNFINISHED,
                device=world.device,
                world=world,
                watch=Portion(watch, 0, units[0], units[1]),
            )
            if not world.is_main:
                return
            for member, sae in zip(sweep.members, saes, strict=True):
                sae.save(out / member.place)
        left = Portion(watch, units[0], units[1] - units[0], units[1])
        rows = list(_readings(sweep, saes, start, world, left))
    write_table(pd.DataFrame(rows), out / "results.csv")
    write_table(pd.DataFrame(_epochs(sweep, saes)), out / "training.csv")
    seconds = round(time.monotonic() - started, 1)
    folder.log("tables complete", seconds=seconds)
    folder.write_manifest(
        command,
        tables_complete=True,
        processes=world.size,
        data=_described(sweep),
        wall_seconds_total=seconds,
    )
    shutil.rmtree(out / _UNFINISHED, ignore_errors=True)


def dry_run_lines(sweep: Sweep, out: Path) -> list[str]:
    """The SAEs of a sweep, what of them is there, and the time and disk the others are expected to take.

    Raises:
        InputError: as for `run_sweep`.
    """
    sweep.check()
    there = bool(_there(_folder(sweep, out), sweep))
    begun = not there and (out / _UNFINISHED).is_dir()
    seeds = f" (seeds {sweep.seed} to {sweep.seed + sweep.n_seeds - 1})" if sweep.n_seeds > 1 else ""
    lines = []
    for name, settings in sweep.variants.items():
        seconds = sweep.n_seeds * (sweep.training_seconds(settings) + sweep.reading_seconds(settings))
        lines.append(f"{'there' if there else f'{seconds:.1f} s':>8}  {out / 'saes' / name}{seeds}")
    n, epochs = len(sweep.members), next(iter(sweep.variants.values())).epochs
    lines.append(
        f"{n} SAE{'' if n == 1 else 's'} on {len(sweep.features):,} features of {sweep.features.dim:,}"
        f" dimensions; {epochs} epochs, each one pass over them for all"
    )
    megabytes = sum(sweep.megabytes(member.settings) for member in sweep.members)
    if there:
        lines.append(f"all are there; results are in {out}")
    else:
        lines.append(
            f"{'begun, and goes on from there; all' if begun else 'none is there; they'} take about"
            f" {sweep.seconds / 60:.1f} min on two CPU cores and {megabytes:.1f} MB (while in training"
            f" {sweep.unfinished_megabytes:.1f} MB); results go to {out}"
        )
    return lines


def _folder(sweep: Sweep, out: Path) -> RunFolder:
    facts = sweep.facts()
    return RunFolder(out, facts, fingerprint_json(facts))


def _claim(folder: RunFolder, sweep: Sweep, command: str) -> None:
    for member in sweep.members:  # before the work, not after it
        check_replaceable(folder.path / member.place)
    RunFolder.claim(folder.path, folder.recipe, folder.recipe_hash, command)


def _there(folder: RunFolder, sweep: Sweep) -> Literal["", "SAEs", "tables"]:
    """What of this very sweep is there: nothing, its SAEs, or their tables by these labels too.

    InputError where another run is.
    """
    sweep_drafts(folder.path)
    complete = folder.check()
    if not all((folder.path / member.place).is_dir() for member in sweep.members):
        return ""
    tables = all((folder.path / name).is_file() for name in ("results.csv", "training.csv"))
    by_these = complete and read_json(folder.path / "manifest.json").get("data") == _described(sweep)
    return "tables" if tables and by_these else "SAEs"


def _readings(
    sweep: Sweep, saes: list[SAE], start: Start, world: World, watch: Watch
) -> Iterator[dict[str, Any]]:
    """A row of results.csv for every SAE."""
    measured = sweep.measured
    judged = _some(measured)
    classes = _classes(judged, watch)
    of_features = None if classes is None else _monosemanticity(judged, classes)
    probe = None if classes is None else _probe(sweep, watch)
    accuracy = None if probe is None else probe(measured)
    for number, (member, sae) in enumerate(zip(sweep.members, saes, strict=True), 1):
        sae.to(world.device)
        quality = asdict(sae_quality(sae, measured, mean=start.mean))
        del quality["downstream"]  # read once for all, and as it is
        has_numbers = math.isfinite(quality["fvu"])  # else it diverged
        of_codes, before, l0_before = None, None, None
        if classes is not None:
            if has_numbers:
                of_codes = _monosemanticity(sae.encode_sparse(judged), classes)
            untrained = SAE(sae.dim, member.settings)
            initialise(untrained, start, member.seed)
            codes = untrained.to(world.device).encode_sparse(judged)
            before = _monosemanticity(codes, classes)
            l0_before = int(codes.values.count_nonzero()) / len(judged)
        yield {
            **_identity(member),
            "n_latents": sae.n_latents,
            "k": sae.k,
            "activation": sae.settings.activation,
            **quality,
            "accuracy": probe(Reconstructions(sae, measured)) if probe is not None and has_numbers else None,
            "features_accuracy": accuracy,
            "monosemanticity": of_codes,
            "untrained_monosemanticity": before,
            "untrained_l0": l0_before,
            "features_monosemanticity": of_features,
            "top_samples": None if classes is None else classes.top,
            "judged_samples": None if classes is None else len(judged),
            "read_on": "training" if sweep.held_out is None else "held out",
        }
        sae.cpu()
        watch.progress(number, len(saes))


def _epochs(sweep: Sweep, saes: list[SAE]) -> Iterator[dict[str, Any]]:
    """A row of training.csv for every epoch of every SAE."""
    for member, sae in zip(sweep.members, saes, strict=True):
        for readings in sae.history:
            yield {**_identity(member), **readings}


def _identity(member: Member) -> dict[str, Any]:
    return {"sae": member.name, "seed": member.seed}


def _some(features: FeatureSet) -> FeatureSet:
    """The features, or as many of them as are judged."""
    if len(features) <= _JUDGED:
        return features
    rows = spread_rows(len(features), _JUDGED, length=1).numpy()
    return FeatureSet.from_arrays(features.take(rows), features.labels[rows], name=features.name)


def _classes(features: FeatureSet, watch: Watch) -> Classes | None:
    """None where samples have no labels, or none to tell them apart by."""
    if features.labels.min() < 0:
        return None
    names, numbered = np.unique(features.labels, return_inverse=True)
    n, n_rows = len(names), len(features)
    if n < 2:
        return None
    if 2 * n > n_rows:
        watch.notice(f"{features.name}: {n:,} classes of {n_rows:,} samples; too many for monosemanticity")
        return None
    return Classes(numbered, n, max(2, n_rows // (2 * n)))


def _monosemanticity(features: Features, classes: Classes) -> float:
    """Matched, corrected for chance, mean over the dimensions that ever vary."""
    scores = matched_monosemanticity(features, classes.labels, classes.n, q=classes.top)
    return scores.mean(scores.corrected, weighted=True)


def _probe(sweep: Sweep, watch: Watch) -> Callable[[Features], float] | None:
    """The accuracy, where all is measured, of a probe of the training features; None without their labels."""
    given, asked = sweep.features.labels, sweep.measured.labels
    names = np.unique(given)
    if names[0] < 0 or len(names) < 2:
        return None
    if not np.isin(asked, names).all():
        watch.notice(
            f"{sweep.measured.name}: has classes that {sweep.features.name} has not; no probe is read"
        )
        return None
    given, asked = (np.searchsorted(names, labels) for labels in (given, asked))
    return probe_accuracy(sweep.features, given, asked, n_classes=len(names), seed=sweep.seed)


def _described(sweep: Sweep) -> list[dict[str, Any]]:
    """The data of a sweep, for its manifest."""
    splits = {"training": sweep.features, "held out": sweep.held_out}
    return [
        {
            "name": features.name,
            "split": split,
            "samples": len(features),
            "dimensions": features.dim,
            "fingerprint": features.fingerprint,
            "labels": fingerprint_arrays(features.labels),
        }
        for split, features in splits.items()
        if features is not None
    ]

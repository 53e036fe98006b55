"""Look into a finished run: the single dimensions of its feature sets, and a probe that leans on them.

Dimensions are scored on the training images and their true labels; what activates them are test images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from monosem.core.errors import InputError, MonosemError
from monosem.core.progress import SILENT, Watch
from monosem.data.datasets import load_dataset
from monosem.data.image_files import ImageFiles
from monosem.data.thumbnails import Pictures, thumbnails
from monosem.experiments.corrupted_tests import noise_seed
from monosem.experiments.feature_sets import FEATURE_SETS, Features
from monosem.experiments.grid import label_noise_source
from monosem.experiments.results import BASELINE, METHODS
from monosem.experiments.saved_features import SavedFeatures, saved_features
from monosem.explain.feature_cards import Classifier, FeatureCards, feature_cards
from monosem.explain.salience import class_accuracies
from monosem.measures.consistency import matched_monosemanticity, native_monosemanticity
from monosem.robust.ridge import RidgePath

_BROWSED = (*FEATURE_SETS, f"rotated-{BASELINE}")

CHOICES = ("matched", "native", "entropy", "number")
"""Which dimensions are shown where there are too many: those with the highest score, or the first."""


@dataclass(frozen=True)
class RunCards:
    """Cards of each feature set; labels int64 [N] and pictures of the samples; notes for the reader."""

    title: str
    sets: tuple[FeatureCards, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    pictures: Pictures
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _NoisyLabels:
    """Training labels [N] that the classifiers are fitted on, in words and as they are."""

    title: str
    labels: Tensor


def run_cards(
    run: Path,
    store: Path,
    *,
    sets: Sequence[str] = (BASELINE, *METHODS),
    pair: int = 0,
    level: float | None = None,
    limit: int = 5000,
    choose: str = "matched",
    watch: Watch = SILENT,
) -> RunCards:
    """What there is to show of the dimensions of some feature sets of a finished run.

    Args:
        run: its folder.
        store: where its stages lie.
        sets: feature sets by name, controls among them.
        pair: number of the encoder pair.
        level: of the run's label noise, under which the classifiers (tuned ridge probes) are fitted; 0 is
            clean, None is the highest that leaves something to learn.
        limit: the most dimensions to show of a set.
        choose: which, where there are more.
        watch: told how many sets are done.

    Raises:
        InputError: as `saved_features`, or a set, level, limit or choice that there is not.
    """
    for name in sets:
        if name not in _BROWSED:
            raise InputError(f"no feature set {name!r}; there are {', '.join(_BROWSED)}")
    if len(set(sets)) < len(sets):
        raise InputError(f"give each feature set once, not {', '.join(sets)}")
    if choose not in CHOICES:
        raise InputError(f"features are chosen by {', '.join(CHOICES)}, not by {choose!r}")
    if limit < 1:
        raise InputError(f"a limit of {limit} leaves nothing to show; give 1 or more")
    saved = saved_features(run, store, pair)
    noisy = _noisy_labels(saved, level)
    cards, notes = [], []
    for done, name in enumerate(sets):
        made = saved.bank.make(name)
        scores = _scores(made, saved)
        numbers = _chosen(scores, choose, limit)
        if len(numbers) < made.test.shape[1]:
            which = "the first" if choose == "number" else f"those with the highest {choose} score"
            notes.append(
                f"{name}: shows {len(numbers):,} of {made.test.shape[1]:,} dimensions, {which};"
                " choose others with --choose, or more with --limit"
            )
        cards.append(
            feature_cards(
                name,
                made.test,
                saved.test.labels,
                len(saved.test.class_names),
                scores,
                numbers=numbers,
                classifier=_classifier(noisy, made, saved),
            )
        )
        watch.progress(done + 1, len(sets))
    pictures, unread = _pictures(saved)
    notes.insert(
        0,
        f"Encoder pair {pair}. Scores are of the training images and their true labels; samples, activations"
        " and accuracies are of the test images.",
    )
    labels = saved.test.labels.numpy()
    title = saved.recipe.title
    return RunCards(title, tuple(cards), labels, saved.test.class_names, pictures, (*notes, *unread))


def _noisy_labels(saved: SavedFeatures, level: float | None) -> _NoisyLabels:
    grid, train = saved.recipe.label_noise, saved.train
    if level == 0 or (grid is None and level is None):
        return _NoisyLabels("clean labels", train.labels)
    if grid is None:
        raise InputError(f"this run has no label noise, so there is no level {level:g}; give 0")
    source = label_noise_source(train, grid)
    levels = (0.0, *grid.levels)
    if level is None:
        level = max(one for one in levels if source.signal(one) > 1e-9)
    if level not in levels:
        raise InputError(f"this run has no level {level:g}; it has {', '.join(f'{one:g}' for one in levels)}")
    kind = f"{grid.kind.replace('_', ' ')} label noise at {100 * level:g} %"
    of_file = "" if grid.file is None else " of the file's"
    return _NoisyLabels(f"{kind}{of_file}", source.corrupt(level, noise_seed(saved.seed, 0)).labels)


def _scores(made: Features, saved: SavedFeatures) -> dict[str, NDArray[np.float64]]:
    of = made.train, saved.train.labels, len(saved.test.class_names)
    return {
        "matched": matched_monosemanticity(*of).corrected,
        "native": native_monosemanticity(*of).corrected,
        "entropy": matched_monosemanticity(*of, by="entropy").corrected,
    }


def _chosen(scores: dict[str, NDArray[np.float64]], choose: str, limit: int) -> NDArray[np.int64]:
    """Numbers of the dimensions to show, rising; those without a score come last."""
    if choose == "number":
        return np.arange(len(scores["matched"]))[:limit]
    best = np.argsort(-np.nan_to_num(scores[choose], nan=-np.inf), kind="stable")
    return np.sort(best[:limit])


def _classifier(noisy: _NoisyLabels, made: Features, saved: SavedFeatures) -> Classifier:
    """A ridge probe tuned on the labels it is given, its weights relative to the largest of them."""
    n_classes = len(saved.test.class_names)
    fits = RidgePath.fit(made.train).solve(noisy.labels[None], n_classes, saved.recipe.tuned, saved.seed)
    probes = fits.probes(fits.tuned())
    predicted = probes.predict(made.test)[0].cpu().numpy()
    accuracies = class_accuracies(saved.test.labels.numpy(), predicted, n_classes)
    weights = probes.weight[0].double().cpu().numpy()
    title = f"Tuned ridge probe, {noisy.title}; weights relative to its largest"
    return Classifier(title, weights / (np.abs(weights).max() or 1.0), accuracies)


def _pictures(saved: SavedFeatures) -> tuple[Pictures, list[str]]:
    """Pictures of the test images, and a note where they are no longer what they were."""
    try:
        # To look at a run is no reason to fetch its data again.
        _, test = load_dataset(saved.recipe.data.replace(download=False))
    except MonosemError as error:
        return _no_pictures, [f"the images cannot be read: {error}"]
    if test.fingerprint != saved.test.fingerprint:
        return _no_pictures, ["the images are not what they were at the time of the run, so none is shown"]
    return partial(_pictures_of, test.images), []


def _pictures_of(images: Tensor | ImageFiles, rows: NDArray[np.int64]) -> Iterator[NDArray[np.uint8] | None]:
    for picture in thumbnails(images, rows.tolist()):
        yield None if picture is None else picture.numpy()


def _no_pictures(rows: NDArray[np.int64]) -> Iterator[None]:
    return (None for _ in rows)

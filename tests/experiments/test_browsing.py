"""Cards of a finished run, against what its pair holds and what its results say."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.core.artifacts import read_json, write_json_atomic
from monosem.core.errors import InputError
from monosem.experiments.browsing import run_cards
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.recipe_data import load_data
from monosem.experiments.recipes import load_recipe
from monosem.experiments.results import read_results
from monosem.experiments.run import Request, RunWatch, run_recipe
from monosem.experiments.saved_features import saved_features
from monosem.experiments.stage_cache import StageCache
from monosem.measures.consistency import matched_monosemanticity

TINY = (
    "n_encoders=2",
    "data.train_limit=250",
    "data.test_limit=120",
    "pretrain.encoder.width=4",
    "pretrain.encoder.projector_hidden=16",
    "pretrain.encoder.projector_out=16",
    "pretrain.epochs=1",
    "pretrain.warmup_epochs=0",
    "sae={epochs: 2, batch_size: 50}",
    "published.epochs=2",
    "label_noise.levels=[0.5]",
    "salience.n_samples=3",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run, and where its stages lie."""
    folder = tmp_path_factory.mktemp("browsing")
    recipe = load_recipe("fig4-digits", TINY)
    request = Request(recipe, folder / "run", folder / "stages", "monosem run fig4-digits")
    run_recipe(request, RunWatch())
    return request.out, request.store


def test_saved_features_are_those_of_the_pair(finished: tuple[Path, Path]) -> None:
    run, store = finished
    saved = saved_features(run, store, pair=1)
    recipe = load_recipe("fig4-digits", TINY)
    pair = EncoderPair(recipe, load_data(recipe), StageCache(store), RunWatch(), 1)
    for name in ("simclr", "ncl", "sae", "rotated-sae"):
        for split in ("train", "test"):
            found, expected = (getattr(bank.make(name), split)[:] for bank in (saved.bank, pair.bank))
            assert torch.equal(found, expected), (name, split)
    assert saved.recipe.hash == recipe.hash
    assert torch.equal(saved.test.labels, pair.data.test.labels)
    assert saved.class_names == pair.data.test.class_names


def test_cards_have_the_runs_scores_pictures_and_the_tuned_probes_accuracy(
    finished: tuple[Path, Path],
) -> None:
    run, store = finished
    found = run_cards(run, store, sets=("ncl", "sae"))
    assert found.notes == ()
    assert [cards.name for cards in found.sets] == ["ncl", "sae"]
    saved = saved_features(run, store)
    results = read_results(run / "results.csv")
    for cards in found.sets:
        made = saved.bank.make(cards.name)
        expected = matched_monosemanticity(made.train, saved.train.labels, 10).corrected
        np.testing.assert_array_equal(cards.scores["matched"], expected)
        assert cards.classifier is not None
        assert cards.classifier.title.startswith("Tuned ridge probe, 50 % symmetric label noise;")
        assert np.abs(cards.classifier.weights).max() == 1
        sizes = np.bincount(found.labels, minlength=10)
        (accuracy,) = results.loc[
            (results["features"] == cards.name)
            & (results["protocol"] == "tuned")
            & (results["metric"] == "accuracy")
            & (results["level"] == 0.5)
            & (results["encoder_seed"] == saved.seed),
            "value",
        ]
        assert (cards.classifier.accuracies * sizes).sum() / sizes.sum() == pytest.approx(accuracy, abs=1e-5)
    _, test = load_data(load_recipe("fig4-digits", TINY)).named()
    for row, picture in zip([5, 0], found.pictures(np.array([5, 0])), strict=True):
        assert picture is not None
        assert np.array_equal(picture, test[1].images[row])


def test_of_too_many_dimensions_those_chosen_are_shown_and_it_is_said(finished: tuple[Path, Path]) -> None:
    run, store = finished
    everything = run_cards(run, store, sets=("simclr",)).sets[0]
    best = run_cards(run, store, sets=("simclr",), limit=5)
    order = np.argsort(-np.nan_to_num(everything.scores["matched"], nan=-1), kind="stable")[:5]
    assert best.sets[0].numbers.tolist() == sorted(order.tolist())
    assert best.notes == (
        "simclr: shows 5 of 16 dimensions, those with the highest matched score;"
        " choose others with --choose, or more with --limit",
    )
    first = run_cards(run, store, sets=("simclr",), limit=3, choose="number")
    assert first.sets[0].numbers.tolist() == [0, 1, 2]
    assert "shows 3 of 16 dimensions, the first;" in first.notes[0]


def test_images_that_are_no_longer_there_are_missed_but_not_needed(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    run, store = finished

    def changed(**changes: object) -> Path:
        copy = tmp_path / "-".join(changes)
        shutil.copytree(run, copy)
        manifest = read_json(copy / "manifest.json")
        data = [
            {**of, "fingerprint": changes.get("fingerprint", of["fingerprint"])} for of in manifest["data"]
        ]
        recipe = {**manifest["recipe"], "data": {**manifest["recipe"]["data"], **changes.get("settings", {})}}
        write_json_atomic(copy / "manifest.json", {**manifest, "data": data, "recipe": recipe})
        return copy

    others = run_cards(changed(fingerprint="x"), store, sets=("ncl",))
    assert list(others.pictures(np.array([0, 1]))) == [None, None]
    assert others.notes == ("the images are others than those of the run: none is shown",)
    moved = {"name": "folder", "root": str(tmp_path / "nowhere")}
    gone = run_cards(changed(settings=moved), store, sets=("ncl",))
    assert list(gone.pictures(np.array([3]))) == [None]
    assert gone.notes[0].startswith("the images cannot be read: ")


def test_what_there_is_not(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, store = finished
    for wrong, message in (
        ({"sets": ("nope",)}, "no feature set 'nope'; there are simclr, ncl"),
        ({"level": 0.3}, r"no level 0.3; it has 0, 0.5"),
        ({"pair": 2}, "its encoder pairs are 0 to 1; there is no 2"),
        ({"limit": 0}, "a limit of 0 leaves nothing to show"),
        ({"choose": "size"}, "chosen by matched, native, entropy, number, not by 'size'"),
    ):
        with pytest.raises(InputError, match=message):
            run_cards(run, store, **wrong)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"no saved features .* --store, or make them again with: monosem run"
    ):
        run_cards(run, tmp_path)
    old = tmp_path / "old"
    shutil.copytree(run, old)
    manifest = read_json(old / "manifest.json")
    write_json_atomic(old / "manifest.json", {k: v for k, v in manifest.items() if k != "stages"})
    with pytest.raises(InputError, match="bring it up to date with: monosem run fig4-digits"):
        run_cards(old, store)
    write_json_atomic(old / "manifest.json", {**manifest, "recipe": {"kind": "toy"}})
    with pytest.raises(InputError, match="a run about toy has no feature sets"):
        run_cards(old, store)

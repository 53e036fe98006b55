"""Cards of a finished run, against what its pair holds and what its results say."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem.cli import _exit_code
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


PLACE = (
    "Encoder pair 0. Scores are of the training images and their true labels; samples, activations and"
    " accuracies are of the test images."
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
    for name in ("simclr", "ncl", "sae", "rotated-sae", "rotated-simclr"):
        for split in ("train", "test"):
            found, expected = (getattr(bank.make(name), split)[:] for bank in (saved.bank, pair.bank))
            assert torch.equal(found, expected), (name, split)
    assert saved.recipe.hash == recipe.hash
    assert torch.equal(saved.test.labels, pair.data.test.labels)
    assert saved.test.class_names == pair.data.test.class_names


def test_cards_have_the_runs_scores_pictures_and_the_tuned_probes_accuracy(
    finished: tuple[Path, Path],
) -> None:
    run, store = finished
    found = run_cards(run, store, sets=("ncl", "sae"))
    assert found.notes == (PLACE,)
    assert [cards.name for cards in found.sets] == ["ncl", "sae"]
    saved = saved_features(run, store)
    results = read_results(run / "results.csv")
    for cards in found.sets:
        made = saved.bank.make(cards.name)
        expected = matched_monosemanticity(made.train, saved.train.labels, 10).corrected
        np.testing.assert_array_equal(cards.scores["matched"], expected)
        assert cards.classifier is not None
        assert cards.classifier.title.startswith("Tuned ridge probe, symmetric label noise at 50 %;")
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
        PLACE,
        "simclr: shows 5 of 16 dimensions, those with the highest matched score;"
        " choose others with --choose, or more with --limit",
    )
    first = run_cards(run, store, sets=("simclr",), limit=3, choose="number")
    assert first.sets[0].numbers.tolist() == [0, 1, 2]
    assert "shows 3 of 16 dimensions, the first;" in first.notes[1]


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
    assert others.notes[1:] == ("the images are not what they were at the time of the run, so none is shown",)
    moved = {"name": "folder", "root": str(tmp_path / "nowhere")}
    gone = run_cards(changed(settings=moved), store, sets=("ncl",))
    assert list(gone.pictures(np.array([3]))) == [None]
    assert gone.notes[1].startswith("the images cannot be read: ")


def test_what_there_is_not(finished: tuple[Path, Path], tmp_path: Path) -> None:
    run, store = finished
    for wrong, message in (
        ({"sets": ("nope",)}, "no feature set 'nope'; there are simclr, ncl"),
        ({"sets": ("ncl", "ncl")}, "give each feature set once, not ncl, ncl"),
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
    tuned = {**manifest["recipe"], "label_noise": None, "salience": None}
    tuned["finetune"] = {"arms": {"nce": {"nonlinearity": "relu"}}, "fractions": [0.5, 1.0]}
    write_json_atomic(old / "manifest.json", {**manifest, "recipe": tuned})
    with pytest.raises(InputError, match="a run of finetuning alone has no feature sets"):
        run_cards(old, store)


def test_noise_from_a_file_that_moved_is_not_needed_for_clean_labels(
    finished: tuple[Path, Path], tmp_path: Path
) -> None:
    run, store = finished
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    manifest = read_json(copy / "manifest.json")
    noise = {"kind": "matrix", "file": str(tmp_path / "gone.csv"), "levels": [1.0]}
    write_json_atomic(
        copy / "manifest.json", {**manifest, "recipe": {**manifest["recipe"], "label_noise": noise}}
    )
    with pytest.raises(InputError, match=r"gone\.csv"):
        run_cards(copy, store, sets=("ncl",))
    classifier = run_cards(copy, store, sets=("ncl",), level=0).sets[0].classifier
    assert classifier is not None
    assert classifier.title.startswith("Tuned ridge probe, clean labels;")


def test_the_verb_writes_the_page_and_says_what_to_know(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, store = finished
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    command = ["browse", str(run), "--store", str(store), "--features", "sae", "--limit", "3"]
    assert _exit_code([*command, "--out", str(tmp_path / "mine")], debug=False) == 2
    assert "holds other files than those of a feature browser" in capsys.readouterr().err
    assert _exit_code([*command, "--out", str(tmp_path / "page")], debug=False) == 0
    said = capsys.readouterr()
    assert "sae: shows 3 of 16 dimensions" in said.out
    assert said.out.endswith(f"Open {tmp_path / 'page' / 'index.html'} in a browser\n")
    assert "features" in said.err  # how far it is

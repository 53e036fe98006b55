"""SAEs of several shapes side by side: what varies, what is measured, the command."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from monosem import cli
from monosem.core.errors import InputError, Paused
from monosem.core.progress import SilentWatch
from monosem.data.feature_set import FeatureSet
from monosem.data.npy_features import open_features
from monosem.experiments import sae_sweep
from monosem.experiments.sae_plan import Sweep, variants_of
from monosem.experiments.sae_sweep import dry_run_lines, run_sweep
from monosem.measures.consistency import matched_monosemanticity
from monosem.robust.probe_score import probe_accuracy
from monosem.sparse.evaluate import fvu
from monosem.sparse.initialise import initialise, starting_point
from monosem.sparse.inputs import encode_set
from monosem.sparse.sae import SAE
from monosem.sparse.train import fit_sae


@pytest.fixture(scope="module")
def digits() -> tuple[FeatureSet, FeatureSet]:
    """Training and held-out digits."""
    data = load_digits()
    pixels, labels = data.data.astype(np.float32), data.target
    return (
        FeatureSet.from_arrays(pixels[:900], labels[:900], name="train"),
        FeatureSet.from_arrays(pixels[900:], labels[900:], name="test"),
    )


def test_every_combination_of_what_varies() -> None:
    found = variants_of(["epochs=2"], ["k=4,8", "latents=64,128"])
    assert [(s.k, s.n_latents, s.epochs) for s in found.values()] == [
        (4, 64, 2),
        (4, 128, 2),
        (8, 64, 2),
        (8, 128, 2),
    ]
    assert list(found)[1] == "k=4,n_latents=128"
    assert list(variants_of(["k=3"], [])) == ["sae"]


@pytest.mark.parametrize(
    ("swept", "message"),
    [
        (["k"], r"--sweep k: write it as key=value,value"),
        (["k=4,"], r"write it as key=value,value"),
        (["k=4,4"], "a value is given twice"),
        (["k=4,8", "k=2"], "k is given twice"),
        (["epochs=1,2"], "epochs is given twice"),
        (["width=3,4"], "monosem sae: unknown key `width`"),
        (["k=a,b"], "monosem sae: `k`"),
    ],
)
def test_what_cannot_be_swept_is_named(swept: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        variants_of(["epochs=3"], swept)


class PauseAlways(SilentWatch):
    def should_pause(self) -> bool:
        return True


def results_of(run: Path) -> pd.DataFrame:
    return pd.read_csv(run / "results.csv")


def monosem(*arguments: object) -> int:
    """The exit code of a command, run in this process."""
    return cli._exit_code([str(word) for word in arguments], debug=False)


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_each_is_measured_on_held_out_features(digits: tuple[FeatureSet, FeatureSet], tmp_path: Path) -> None:
    train, test = digits
    variants = variants_of(["epochs=3"], ["k=4,8"])
    run_sweep(Sweep(train, variants, test), tmp_path / "run", "monosem sae")
    table = results_of(tmp_path / "run")
    for row, (name, settings) in zip(table.itertuples(), variants.items(), strict=True):
        sae = SAE.load(tmp_path / "run" / "saes" / name)
        alone = fit_sae(train, settings)
        assert np.array_equal(sae.decoder.numpy(), alone.decoder.numpy())
        mean = train.dense().mean(axis=0, dtype=np.float64)
        assert row.fvu == pytest.approx(fvu(sae, test, torch.from_numpy(mean)), rel=1e-5)
        codes = sae.encode_sparse(test)
        assert row.l0 == pytest.approx(float((codes.values > 0).sum()) / len(test), rel=1e-5)
        untrained = SAE(64, settings)
        initialise(untrained, starting_point(train, settings), seed=0)
        for found, of in (
            (row.monosemanticity, codes),
            (row.untrained_monosemanticity, untrained.encode_sparse(test)),
            (row.features_monosemanticity, test.dense()),
        ):
            scores = matched_monosemanticity(of, test.labels, 10)
            assert found == pytest.approx(scores.mean(scores.corrected, weighted=True), rel=1e-5)
        assert row.untrained_monosemanticity != pytest.approx(row.monosemanticity, abs=1e-3)
        assert row.top_samples == len(test) // 20
        score = probe_accuracy(train, train.labels, test.labels, 10)
        assert row.features_accuracy == pytest.approx(score(test))
        assert row.features_accuracy > 0.8
        assert row.accuracy == pytest.approx(score(sae(test.dense())))
        assert row.untrained_l0 == row.k
    assert set(table["read_on"]) == {"held out"}
    assert not (tmp_path / "run" / "unfinished").exists()
    training = pd.read_csv(tmp_path / "run" / "training.csv")
    assert training[["sae", "seed", "epoch"]].to_numpy().tolist() == [
        [name, 0, epoch] for name in variants for epoch in (1, 2, 3)
    ]
    last = training[training["epoch"] == 3]
    assert last["fvu"].tolist() == pytest.approx(table["fvu"].tolist(), rel=1e-5)


def test_every_variant_starts_from_several_dictionaries(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, _ = digits
    variants = variants_of(["epochs=1"], ["k=4,8"])
    run_sweep(Sweep(train, variants, seed=3, n_seeds=2), tmp_path / "run", "monosem sae")
    table = results_of(tmp_path / "run")
    assert table[["sae", "seed"]].to_numpy().tolist() == [["k=4", 3], ["k=4", 4], ["k=8", 3], ["k=8", 4]]
    assert table["fvu"].nunique() == 4
    saes = [SAE.load(tmp_path / f"run/saes/k=4/seed-{seed}") for seed in (3, 4)]
    assert np.array_equal(saes[0].decoder.numpy(), fit_sae(train, variants["k=4"], seed=3).decoder.numpy())
    assert not np.allclose(saes[0].decoder.numpy(), saes[1].decoder.numpy(), atol=0.1)


@pytest.mark.parametrize("n_seeds", [1, 2])
def test_a_paused_sweep_goes_on_to_the_same_saes(
    n_seeds: int, digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, _ = digits
    sweep = Sweep(train, variants_of(["epochs=2", "batch_size=300"], ["k=4,8"]), n_seeds=n_seeds)
    run_sweep(sweep, tmp_path / "whole", "monosem sae")
    pauses = 0
    while True:
        try:
            run_sweep(sweep, tmp_path / "run", "monosem sae", PauseAlways())
            break
        except Paused:
            pauses += 1
            said = dry_run_lines(sweep, tmp_path / "run")[-1]
            assert said.startswith("begun, and goes on from there")
    assert pauses == 6
    for table in ("results.csv", "training.csv"):
        assert (tmp_path / "run" / table).read_bytes() == (tmp_path / "whole" / table).read_bytes()
    for other in (
        Sweep(train, sweep.variants, seed=1, n_seeds=n_seeds),
        Sweep(train, sweep.variants, n_seeds=3),
    ):
        for attempt in (run_sweep, lambda sweep, out, _: dry_run_lines(sweep, out)):
            with pytest.raises(InputError, match="holds another run"):
                attempt(other, tmp_path / "run", "monosem sae")


def test_what_is_there_is_not_trained_again(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = digits
    sweep = Sweep(train, variants_of(["epochs=1"], ["k=4,8"]))
    out = tmp_path / "run"
    run_sweep(sweep, out, "monosem sae")
    assert dry_run_lines(sweep, out)[-1].startswith("all are there")
    before = files_below(out)
    with monkeypatch.context() as patch:
        patch.setattr(sae_sweep, "fit_saes", None)
        run_sweep(sweep, out, "monosem sae")
    assert files_below(out) == before
    (out / "saes/k=4/config.json").unlink()
    (out / "saes/k=4/weights.safetensors").unlink()
    (out / "saes/k=4/checksums.json").unlink()
    (out / "saes/k=4").rmdir()
    assert dry_run_lines(sweep, out)[-1].startswith("none is there")
    run_sweep(sweep, out, "monosem sae")
    assert SAE.load(out / "saes/k=4").k == 4


@pytest.mark.parametrize("labels", [np.zeros(900, int), np.full(900, -1), np.arange(900)])
def test_features_without_classes_have_no_monosemanticity(
    labels: np.ndarray, digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, _ = digits
    notices: list[str] = []

    class Heard(SilentWatch):
        def notice(self, message: str) -> None:
            notices.append(message)

    unlabelled = FeatureSet.from_arrays(train.dense(), labels)
    run_sweep(Sweep(unlabelled, variants_of(["epochs=1"], [])), tmp_path / "run", "monosem sae", Heard())
    table = results_of(tmp_path / "run")
    assert table[["monosemanticity", "features_monosemanticity"]].isna().all(axis=None)
    assert table[["accuracy", "features_accuracy"]].isna().all(axis=None)
    told = ["features: 900 classes of 900 samples; too many for monosemanticity"]
    assert notices == (told if labels[-1] == 899 else [])


def test_of_many_samples_some_are_judged(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = digits
    monkeypatch.setattr(sae_sweep, "_JUDGED", 300)
    run_sweep(Sweep(train, variants_of(["epochs=1"], [])), tmp_path / "run", "monosem sae")
    (row,) = results_of(tmp_path / "run").itertuples()
    rows = np.array([int(899 * place / 299) for place in range(300)])
    assert (row.judged_samples, row.top_samples) == (300, 15)
    codes = SAE.load(tmp_path / "run" / "saes" / "sae").encode_sparse(train.take(rows))
    scores = matched_monosemanticity(codes, train.labels[rows], 10)
    assert row.monosemanticity == pytest.approx(scores.mean(scores.corrected, weighted=True), rel=1e-5)


def test_windows_are_of_the_size_that_is_asked_for(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    """Features on disk that do not fit are shuffled otherwise, so that the SAE is another one."""
    train, _ = digits
    where, trained = tmp_path / "set", ("--set", "epochs=1", "--out")
    FeatureSet.from_arrays(np.tile(train.dense(), (8, 1)), np.tile(train.labels, 8)).save(where)
    for mib in (512, 1):
        assert monosem("sae", where, "--window", mib, *trained, tmp_path / str(mib)) == 0
    first, second = (SAE.load(tmp_path / str(mib) / "saes" / "sae").decoder for mib in (512, 1))
    assert not torch.equal(first, second)
    assert monosem("sae", where, *trained, tmp_path / "1") == 2  # another run
    assert monosem("sae", where, "--window", 600, *trained, tmp_path / "512") == 0  # the same: all fits


def test_other_labels_are_read_and_nothing_is_trained_again(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, _ = digits
    variants = variants_of(["epochs=1"], ["k=4,8"])
    run_sweep(Sweep(FeatureSet.from_arrays(train.dense(), np.full(900, -1)), variants), tmp_path / "run", "")
    assert results_of(tmp_path / "run")["monosemanticity"].isna().all()
    run_sweep(Sweep(train, variants), tmp_path / "at once", "")
    monkeypatch.setattr(sae_sweep, "fit_saes", lambda *_, **__: pytest.fail("trained again"))
    run_sweep(Sweep(train, variants), tmp_path / "run", "")
    pd.testing.assert_frame_equal(results_of(tmp_path / "run"), results_of(tmp_path / "at once"))
    of_both = [pd.read_csv(tmp_path / name / "training.csv") for name in ("run", "at once")]
    pd.testing.assert_frame_equal(*of_both)


def test_a_probe_that_is_never_right_is_read_like_any_other(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, test = digits
    wrong = FeatureSet.from_arrays(test.dense(), (test.labels + 1) % 10, name="wrong")
    run_sweep(Sweep(train, variants_of(["epochs=1"], []), wrong), tmp_path / "run", "")
    assert results_of(tmp_path / "run")["features_accuracy"].iloc[0] < 0.1


def test_features_at_fault_leave_the_folder_as_it_was(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, _ = digits
    constant = FeatureSet.from_arrays(np.ones((50, 64), np.float32), train.labels[:50])
    with pytest.raises(InputError, match="all rows of the features are equal"):
        run_sweep(Sweep(constant, variants_of(["epochs=1"], [])), tmp_path / "run", "")
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match="--held-out: features are the very features that are trained on"):
        run_sweep(Sweep(constant, variants_of(["epochs=1"], []), constant), tmp_path / "run", "")


def test_what_does_not_fit_in_memory_can_be_looked_at(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    lines = dry_run_lines(Sweep(digits[0], variants_of(["k=32"], ["latents=3000000000"])), tmp_path / "run")
    assert lines[1].startswith("1 SAE on 900 features")


def test_an_sae_that_diverged_leaves_the_others_their_report(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    FeatureSet.save(digits[0], tmp_path / "set")
    asked = ("sae", tmp_path / "set", "--set", "k=4", "--set", "epochs=2", "--sweep", "lr=1e-3,1e38")
    assert monosem(*asked, "--out", tmp_path / "run") == 0
    table = results_of(tmp_path / "run")
    for column in ("fvu", "accuracy", "monosemanticity"):
        assert table[column].notna().tolist() == [True, False]
    assert monosem(*asked[:-1], "lr=1e38", "--out", tmp_path / "alone") == 2


def test_classes_that_the_training_features_lack_leave_no_probe(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, test = digits
    known = train.labels < 9
    fewer = FeatureSet.from_arrays(train.dense()[known], train.labels[known], name="fewer")
    run_sweep(Sweep(fewer, variants_of(["epochs=1"], []), test), tmp_path / "run", "monosem sae")
    table = results_of(tmp_path / "run")
    assert table["accuracy"].isna().all()
    assert table["monosemanticity"].notna().all()


def test_classes_may_have_any_numbers(digits: tuple[FeatureSet, FeatureSet], tmp_path: Path) -> None:
    train, _ = digits
    variants = variants_of(["epochs=1"], [])
    scores = []
    for name, labels in (("from-zero", train.labels), ("far-apart", train.labels * 10**8 + 7)):
        run_sweep(Sweep(FeatureSet.from_arrays(train.dense(), labels), variants), tmp_path / name, "")
        scores.append(results_of(tmp_path / name)[["monosemanticity", "accuracy"]].to_numpy().tolist())
    assert scores[0] == scores[1]


@pytest.fixture
def files(digits: tuple[FeatureSet, FeatureSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The digits as folders and as .npy files, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    for features, name in zip(digits, ("train", "test"), strict=True):
        features.save(Path(name))
        np.save(f"{name}.npy", features.dense())
        np.save(f"{name}_labels.npy", features.labels)


@pytest.mark.usefixtures("files")
def test_the_command_trains_draws_and_says(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--sweep", "k=4,8", "latents=32,64", "--set", "epochs=2")
    assert monosem("sae", "train", *asked, "--held-out", "test", "--out", "run") == 0
    said = capsys.readouterr().out
    assert "probe, %  monosemantic, %  before, %" in said
    assert "held-out features" in said
    out = Path("run")
    assert len(results_of(out)) == 4
    assert (out / "figures" / "frontier.png").stat().st_size > 10_000
    assert json.loads((out / "manifest.json").read_text())["complete"]
    assert "| 64 | 8 | topk |" in (out / "summary.md").read_text()

    # The same from files: the same numbers, and SAEs that take either.
    given = ("--labels", "train_labels.npy", "--held-out", "test.npy", "--held-out-labels", "test_labels.npy")
    assert monosem("sae", "train.npy", *asked, *given, "--out", "from-files") == 0
    for table in ("results.csv", "training.csv"):
        assert (out / table).read_bytes() == Path("from-files", table).read_bytes()
    codes = encode_set(SAE.load(out / "saes/k=4,n_latents=32"), open_features("train.npy"))
    assert len(codes) == 900
    with pytest.raises(InputError, match="not the features this SAE was trained on"):
        encode_set(SAE.load(out / "saes/k=4,n_latents=32"), open_features("test.npy"))


@pytest.mark.usefixtures("files")
def test_a_dry_run_lists_saes_time_and_disk_and_does_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    before = files_below(Path())
    asked = ("sae", "train.npy", "--sweep", "k=4,8", "latents=32,64", "--seeds", "3", "--out", "run")
    assert monosem(*asked, "--dry-run") == 0
    *saes, about, total = capsys.readouterr().out.splitlines()
    assert [line.split("s  ")[1] for line in saes] == [
        f"run/saes/k={k},n_latents={n} (seeds 0 to 2)" for k in (4, 8) for n in (32, 64)
    ]
    assert about.startswith("12 SAEs on 900 features of 64 dimensions; 30 epochs")
    assert re.match(r"none is there; they take about [\d.]+ min on two CPU cores and [\d.]+ MB", total)
    assert files_below(Path()) == before


def test_disk_is_told_as_it_is(digits: tuple[FeatureSet, FeatureSet], tmp_path: Path) -> None:
    sweep = Sweep(digits[0], variants_of(["epochs=1", "batch_size=100"], ["latents=500,2000"]))
    with pytest.raises(Paused):
        run_sweep(sweep, tmp_path / "run", "", PauseAlways())
    with pytest.raises(Paused):
        run_sweep(sweep, tmp_path / "run", "", PauseAlways())
    megabytes = (
        sum(path.stat().st_size for path in (tmp_path / "run/unfinished").rglob("*.safetensors")) / 1e6
    )
    assert megabytes == pytest.approx(sweep.unfinished_megabytes, rel=0.1)
    run_sweep(sweep, tmp_path / "run", "")
    for name, settings in sweep.variants.items():
        size = (tmp_path / "run/saes" / name / "weights.safetensors").stat().st_size / 1e6
        assert size == pytest.approx(sweep.megabytes(settings), rel=0.1)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere",), "nowhere: no such file or folder"),
        (("train.csv",), "train.csv: no .npy file; write one with numpy.save"),
        (("train.npy", "--labels", "test_labels.npy"), "test_labels.npy: holds int64 [897]; the rows of"),
        (("train.npy", "--held-out-labels", "test_labels.npy"), "there is no --held-out"),
        (
            ("train.npy", "--labels", "train_labels.npy", "--held-out", "test.npy"),
            "give theirs with --held-o",
        ),
        (("train", "--labels", "train_labels.npy"), "train is a feature set with labels of its own"),
        (("train.npy", "--held-out", "narrow.npy"), "held-out features have 3 columns, the others 64"),
        (("train.npy", "--sweep", "k=100", "latents=32"), "sae.k=100 is more than the 32 latents"),
        (
            ("train.npy", "--sweep", "latents=16,64", "--set", "k=2", "--set", "prefixes=[8, 32]"),
            "sae.prefixes: 32 is more than the 16 latents; choose smaller ones",
        ),
        (("train.npy", "--sweep", "epochs=1,2"), "sae.epochs: SAEs that are trained together have one"),
        (("train.npy", "--seeds", "0"), "--seeds"),
    ],
)
@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_faulty_input_is_one_line_before_any_work(
    arguments: tuple[str, ...], message: str, more: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("train.csv").write_text("1,2\n")
    np.save("narrow.npy", np.ones((5, 3)))
    before = files_below(Path())
    assert monosem("sae", *arguments, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert files_below(Path()) == before

"""SAEs of several shapes side by side: what varies, what is measured, the command."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.datasets import load_digits

from monosem.cli import main
from monosem.core.errors import InputError, Paused
from monosem.core.progress import SilentWatch
from monosem.data.feature_set import FeatureSet
from monosem.experiments.sae_sweep import run_sweep, variants_of
from monosem.measures.consistency import matched_monosemanticity
from monosem.sparse.evaluate import fvu
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


def test_each_is_measured_on_held_out_features(digits: tuple[FeatureSet, FeatureSet], tmp_path: Path) -> None:
    train, test = digits
    variants = variants_of(["epochs=3"], ["k=4,8"])
    table = run_sweep(train, variants, tmp_path / "run", "monosem sae", held_out=test)
    for row, (name, settings) in zip(table.itertuples(), variants.items(), strict=True):
        sae = SAE.load(tmp_path / "run" / "saes" / name)
        alone = fit_sae(train, settings)
        assert np.array_equal(sae.decoder.numpy(), alone.decoder.numpy())
        mean = train.dense().mean(axis=0, dtype=np.float64)
        assert row.fvu == pytest.approx(fvu(sae, test, torch.from_numpy(mean)), rel=1e-5)
        codes = sae.encode_sparse(test)
        assert row.l0 == pytest.approx(float((codes.values > 0).sum()) / len(test))
        scores = matched_monosemanticity(codes, test.labels, 10)
        assert row.monosemanticity == pytest.approx(scores.mean(scores.corrected, weighted=True))
    assert set(table["read_on"]) == {"held out"}
    assert not (tmp_path / "run" / "unfinished").exists()


def test_a_paused_sweep_goes_on_to_the_same_saes(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, _ = digits
    variants = variants_of(["epochs=2", "batch_size=300"], ["k=4,8"])

    class PauseAlways(SilentWatch):
        def should_pause(self) -> bool:
            return True

    whole = run_sweep(train, variants, tmp_path / "whole", "monosem sae")
    pauses = 0
    while True:
        try:
            again = run_sweep(train, variants, tmp_path / "run", "monosem sae", watch=PauseAlways())
            break
        except Paused:
            pauses += 1
    assert pauses == 6
    pd.testing.assert_frame_equal(again, whole)
    with pytest.raises(InputError, match="holds another run"):
        run_sweep(train, variants, tmp_path / "run", "monosem sae", seed=1)


def test_features_without_classes_have_no_monosemanticity(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path
) -> None:
    train, _ = digits
    unlabelled = FeatureSet.from_arrays(train.dense(), np.zeros(len(train), dtype=np.int64))
    table = run_sweep(unlabelled, variants_of(["epochs=1"], []), tmp_path / "run", "monosem sae")
    assert table["monosemanticity"].isna().all()


def test_the_command_trains_draws_and_says(
    digits: tuple[FeatureSet, FeatureSet], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train, test = digits
    train.save(tmp_path / "train")
    test.save(tmp_path / "test")
    out = tmp_path / "run"
    command = ["sae", str(tmp_path / "train"), "--sweep", "k=4,8", "latents=32,64", "--set", "epochs=2"]
    with pytest.raises(SystemExit) as ended:
        main([*command, "--held-out", str(tmp_path / "test"), "--out", str(out)])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "monosemanticity" in said
    assert "held-out features" in " ".join(said.split())
    assert len(pd.read_csv(out / "results.csv")) == 4
    assert (out / "figures" / "frontier.png").stat().st_size > 10_000
    assert json.loads((out / "manifest.json").read_text())["complete"]
    assert "| 64 | 8 | topk |" in (out / "summary.md").read_text()
    with pytest.raises(SystemExit) as ended:
        main(
            [
                "sae",
                str(tmp_path / "train"),
                "--sweep",
                "k=100",
                "latents=32",
                "--out",
                str(tmp_path / "other"),
            ]
        )
    assert ended.value.code == 2
    assert "sae.k=100 is more than the 32 latents" in capsys.readouterr().err

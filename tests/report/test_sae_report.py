"""What people see of SAEs side by side: words, table, figures and page, from tables made up for it."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monosem.core.errors import InputError
from monosem.core.run_folder import RunFolder
from monosem.experiments.sae_plan import variants_of
from monosem.report import kind_of, screen, write_reports
from monosem.report.sae_figure import sae_frontier
from monosem.report.sae_tables import frontier, notes, read_sweep, read_training
from monosem.report.sae_training_figure import sae_training_figure
from monosem.report.tables import side_by_side
from monosem.report.wording import NO_VALUE

SWEPT = ("k=16,32,64", "latents=1024,4096")


def made(
    folder: Path,
    seeds: int = 3,
    swept: tuple[str, ...] = SWEPT,
    *,
    labels: bool = True,
    held_out: bool = True,
) -> Path:
    """A finished run with made-up numbers that depend on what varies and on the seed."""
    variants = variants_of(["epochs=4"], swept)
    random = np.random.default_rng(0)
    rows, epochs = [], []
    for number, (name, settings) in enumerate(variants.items()):
        for seed in range(seeds):
            fvu = 0.3 / (settings.k or 8) ** 0.5 + 0.01 * number + 0.005 * random.normal()
            identity = {"sae": name, "seed": seed}
            rows.append(
                identity
                | {"n_latents": settings.n_latents or 64, "k": settings.k or 8}
                | {"activation": settings.activation, "fvu": fvu, "l0": float(settings.k or 8), "dead": 0.25}
                | {
                    "accuracy": 0.72 + 0.01 * seed if labels else None,
                    "features_accuracy": 0.8 if labels else None,
                }
                | {"monosemanticity": 0.3 + 0.02 * random.normal() if labels else None}
                | {
                    "untrained_monosemanticity": 0.1 + 0.01 * seed if labels else None,
                    "untrained_l0": 1.5 * (settings.k or 8) if labels else None,
                    "features_monosemanticity": 0.125 if labels else None,
                    "top_samples": 50 if labels else None,
                    "judged_samples": 1000 if labels else None,
                }
                | {"read_on": "held out" if held_out else "training"}
            )
            for epoch in range(1, 5):
                watched = {"fvu": fvu * (1 + 1 / epoch)} if held_out else {}
                epochs.append(identity | {"epoch": epoch, "loss": 0.9 / epoch, "dead": 3} | watched)
    recipe = {
        "kind": "sae",
        "variants": {name: settings.model_dump(mode="json") for name, settings in variants.items()},
        "seed": 0,
        "seeds": seeds,
    }
    run = RunFolder.claim(folder, recipe, "hash", "monosem sae <x>.npy")
    pd.DataFrame(rows).to_csv(folder / "results.csv", index=False)
    pd.DataFrame(epochs).to_csv(folder / "training.csv", index=False)
    data = [
        {"name": f"<{split}>", "split": split, "samples": n, "dimensions": 64, "fingerprint": "f" * 64}
        for split, n in (("training", 50_000), ("held out", 1000))[: 1 + held_out]
    ]
    run.write_manifest(
        "monosem sae <x>.npy", tables_complete=True, data=data, processes=1, wall_seconds_total=9
    )
    return folder


def test_means_and_intervals_are_over_first_dictionaries(tmp_path: Path) -> None:
    _, results = read_sweep(made(tmp_path))
    found = frontier(results).set_index("sae")
    assert list(found.index) == list(dict.fromkeys(results["sae"]))
    for name, of_sae in results.groupby("sae"):
        for column in ("fvu", "monosemanticity"):
            values = of_sae[column]
            low, high = stats.t.interval(0.95, 2, values.mean(), stats.sem(values))
            row = found.loc[str(name)]
            expected = (values.mean(), low, high)
            assert (row[column], row[f"{column}_low"], row[f"{column}_high"]) == pytest.approx(expected)
    assert list(found["family"].unique()) == ["1,024 latents, topk", "4,096 latents, topk"]


def test_a_family_differs_in_nothing_but_how_many_latents_are_active(tmp_path: Path) -> None:
    swept = ("activation=topk,relu", "k=4,8", "lr=0.1,0.2", "sparsity_coef=1e-2,1e-1")
    _, results = read_sweep(made(tmp_path, 1, swept))
    found = frontier(results)
    assert len(found) == 16
    assert found["family"].value_counts().to_dict() == {
        f"64 latents, {activation}, lr={lr}": 4 for activation in ("topk", "relu") for lr in (0.1, 0.2)
    }


def test_one_dictionary_has_no_interval_and_says_so(tmp_path: Path) -> None:
    run = made(tmp_path, seeds=1)
    _, results = read_sweep(run)
    assert frontier(results)["fvu_low"].isna().all()
    assert any(note.startswith("One first dictionary each") for note in notes(results))
    assert "±" not in screen(run)
    assert not [bars for axes in sae_frontier(results).axes for bars in axes.collections]


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"held_out": False}, "Read on the features that were trained on: on others, SAEs explain less"),
        ({"labels": False}, "two samples each on average, there is no monosemanticity (--labels)."),
        ({}, "The features themselves: 12.5 % on their own dimensions, by the same number of samples."),
        ({}, "Means over 3 first dictionaries, on the same features and batches"),
        ({}, "Before: monosemanticity of each SAE as it began, sparse codes of a random dictionary"),
        ({}, "Probe: accuracy of one linear probe, trained on the features themselves"),
        ({}, "how far the 50 of 1,000 samples that activate a latent most, as many for every latent"),
    ],
)
def test_what_the_numbers_are_is_said_everywhere(tmp_path: Path, how: dict[str, Any], said: str) -> None:
    run = made(tmp_path, **how)
    write_reports(run)
    for text in (screen(run), (run / "summary.md").read_text(), (run / "report.html").read_text()):
        assert said in " ".join(text.split())
    if not how:
        assert "One first dictionary" not in screen(run)


def test_the_screen_fits_a_terminal_of_a_hundred_columns(tmp_path: Path) -> None:
    lines = screen(made(tmp_path)).splitlines()
    assert max(map(len, lines[:-1])) <= 100
    first = lines[1].split()
    assert first[:3] == ["k=16,n_latents=1024", "1,024", "16"]
    assert re.fullmatch(r"[\d.]+ ± [\d.]+", " ".join(first[3:6]))
    assert first[8] == "73.0"
    assert first[-1] == f"{100 * (0.1 + 0.01):.1f}"
    features = ["features", "themselves", "64", *[NO_VALUE] * 4, "80.0", "12.5", NO_VALUE]
    assert lines[7].split() == features


def test_activations_are_named_where_they_differ(tmp_path: Path) -> None:
    run = made(tmp_path, 1, ("activation=topk,relu",))
    assert "activation" in screen(run).splitlines()[0]
    assert screen(run).splitlines()[2].split()[:4] == ["activation=relu", "64", NO_VALUE, "relu"]


def test_the_frontier_shows_every_mean_interval_and_the_features(tmp_path: Path) -> None:
    _, results = read_sweep(made(tmp_path))
    figure = sae_frontier(results)
    points = frontier(results)
    families = points.groupby("family", sort=False)
    for axes, column in zip(figure.axes, ("fvu", "monosemanticity"), strict=True):
        *lines, reference = axes.lines if column == "monosemanticity" else [*axes.lines, None]
        if reference is not None:
            for before, (_, family) in zip(lines[1::2], families, strict=True):
                assert before.get_ydata() == pytest.approx(
                    100 * family["untrained_monosemanticity"].to_numpy()
                )
            lines = lines[::2]
        for line, bars, (_, family) in zip(lines, axes.collections, families, strict=True):
            assert line.get_ydata() == pytest.approx(100 * family[column].to_numpy())
            assert line.get_xdata() == pytest.approx(family["l0"].to_numpy(), rel=0.02)
            ends = np.array([path.vertices[:, 1] for path in bars.get_paths()])
            assert ends == pytest.approx(100 * family[[f"{column}_low", f"{column}_high"]].to_numpy())
        if reference is not None:
            assert set(reference.get_ydata()) == {12.5}
            results["features_monosemanticity"] = 0.9  # out of the others' range
            assert sae_frontier(results).axes[1].get_ylim()[1] > 90
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *points["family"].unique(),
        "before training",
        "the features themselves",
    ]
    _, unlabelled = read_sweep(made(tmp_path / "b", labels=False))
    assert len(sae_frontier(unlabelled).axes) == 1


@pytest.mark.parametrize(
    ("l0", "ticks"), [([4.0, 8.2, 16.0], {4, 8, 16}), ([29.3, 31.2, 31.9], {30, 31}), ([4.0, 4.0, 4.0], {4})]
)
def test_active_latents_have_ticks_however_near_they_are(
    tmp_path: Path, l0: list[float], ticks: set[int]
) -> None:
    _, results = read_sweep(made(tmp_path, 1, ("k=4,8,16",)))
    results["l0"] = l0
    axes = sae_frontier(results).axes[0]
    low, high = axes.get_xlim()
    assert low <= min(l0) <= max(l0) <= high
    assert ticks <= {tick for tick in axes.get_xticks() if low <= tick <= high}


@pytest.mark.parametrize("held_out", [True, False])
def test_training_shows_every_saes_mean_over_epochs(tmp_path: Path, held_out: bool) -> None:
    run = made(tmp_path, held_out=held_out)
    training = read_training(run)
    figure = sae_training_figure(read_sweep(run)[1], training)
    reading = "fvu" if held_out else "loss"
    assert figure.axes[0].get_ylabel().startswith("held-out FVU" if held_out else "training loss")
    for axes, n_latents in zip(figure.axes, (1024, 4096), strict=True):
        assert axes.get_title(loc="left") == f"{n_latents:,} latents, topk"
        labels = sorted(axes.texts, key=lambda text: float(text.xy[1]))
        assert {text.get_text() for text in labels} == {"k=16", "k=32", "k=64"}
        low, high = axes.get_ylim()
        apart = np.diff([text.xy[1] for text in labels])
        assert (apart >= 0.089 * (high - low)).all()
        for line, k in zip(axes.lines, (16, 32, 64), strict=True):
            expected = (
                training[training["sae"] == f"k={k},n_latents={n_latents}"].groupby("epoch")[reading].mean()
            )
            assert line.get_ydata() == pytest.approx(100 * expected.to_numpy())
            assert low <= min(line.get_ydata()) <= max(line.get_ydata()) <= high


def test_the_page_stands_alone_and_names_every_sae(tmp_path: Path) -> None:
    run = made(tmp_path)
    write_reports(run)
    assert kind_of(run) == "sae"
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "monosem sae &lt;x&gt;.npy" in page
    assert "1,000 features of 64 dimensions (&lt;held out&gt;), held out" in page
    for name in read_sweep(run)[0]["recipe"]["variants"]:
        assert f"saes/{name}/seed-0 to 2" in page
        k, n_latents = name.split(",")
        assert f"{n_latents}, {k}, epochs=4" in page
    assert page.count("<svg") == 2
    drawn = {path.name for path in (run / "figures").iterdir()}
    assert {f"{name}.{kind}" for name in ("frontier", "training") for kind in ("png", "svg")} <= drawn
    assert read_sweep(run)[0]["complete"] is True


def test_a_single_epoch_has_no_curves(tmp_path: Path) -> None:
    run = made(tmp_path, seeds=1)
    training = read_training(run)
    training[training["epoch"] == 1].to_csv(run / "training.csv", index=False)
    write_reports(run)
    assert (run / "report.html").read_text().count("<svg") == 1
    (run / "training.csv").write_text("sae,seed\n")
    with pytest.raises(InputError, match=r"training\.csv: the columns epoch, loss are missing"):
        write_reports(run)


def test_there_are_no_verdicts_to_compare(tmp_path: Path) -> None:
    run = made(tmp_path)
    with pytest.raises(
        InputError, match=r"a run about sae has no verdicts to compare; open its report\.html"
    ):
        side_by_side(run, run)

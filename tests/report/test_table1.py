import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from monosem.core.artifacts import read_json
from monosem.experiments.recipes import load_recipe
from monosem.experiments.results import read_results
from monosem.report.figure_style import COLOURS
from monosem.report.paper import paper_table1
from monosem.report.table1 import (
    TABLE1_COLUMNS,
    independent_difference,
    notes,
    side_by_side_table,
    table1,
    wilson,
    write_table1,
)
from monosem.report.table1_figure import table1_figure
from monosem.report.tables import summary, verdict_screen

LABELS = "label-noise-symmetric"
CIFAR = "table1-cifar100"


@pytest.fixture(scope="module")
def manifest():
    return {"recipe": load_recipe(CIFAR).model_dump(mode="json")}


def row(table, quantity, features, rate):
    (found,) = table.rows(quantity, features).query("rate == @rate").itertuples()
    return found


def cell(results, features, rate, encoder):
    """Accuracies of one encoder's noise draws."""
    chosen = results.query(
        "metric == 'accuracy' and protocol == 'published' and condition == @LABELS"
        " and features == @features and level == @rate and encoder_seed == @encoder"
    )
    return chosen["value"].to_numpy()


@pytest.mark.parametrize(("k", "n"), [(0, 20), (7, 20), (540, 1000), (1000, 1000)])
def test_wilson_is_scipys(k, n):
    expected = stats.binomtest(k, n).proportion_ci(method="wilson")
    found = wilson(k / n, n)
    np.testing.assert_allclose(found, [k / n, expected.low, expected.high], atol=1e-12)


def test_the_interval_of_a_difference_is_that_of_independent_proportions():
    found = independent_difference(0.6, 0.5, 1000)
    error = math.sqrt(0.6 * 0.4 / 1000 + 0.5 * 0.5 / 1000)
    low, high = stats.norm.interval(0.95, 0.1, error)
    np.testing.assert_allclose(found, [0.1, low, high])
    # Conservative: the same share of right answers on the same images differs by less.
    rng = np.random.default_rng(0)
    easy = rng.random((2000, 1000))
    paired = (easy < 0.6).mean(axis=1) - (easy < 0.5).mean(axis=1)
    assert paired.std() < error


def test_several_encoders_give_t_intervals_over_encoders(manifest, make_results):
    results = make_results(n_encoders=3)
    table = table1(manifest, results)
    assert tuple(table.numbers.columns) == TABLE1_COLUMNS
    for features in ("simclr", "ncl", "sae"):
        for rate in (0.0, 0.3, 0.8):
            means = [cell(results, features, rate, encoder).mean() for encoder in range(3)]
            low, high = stats.t.interval(0.95, 2, np.mean(means), stats.sem(means))
            found = row(table, "accuracy", features, rate)
            np.testing.assert_allclose(
                [found.ours, found.ours_low, found.ours_high], [np.mean(means), low, high]
            )
            assert found.paper == paper_table1(CIFAR).accuracy[features][rate]
    assert "t intervals over 3 encoder pairs" in notes(table)[0]
    assert set(table.numbers["interval"].dropna()) == {"t over encoders"}


def test_with_six_pairs_the_differences_are_those_of_the_comparisons(manifest, results, comparisons):
    table = table1(manifest, results)
    by_key = comparisons.set_index(["protocol", "condition", "features", "endpoint"]).sort_index()
    endpoints = {0.0: "clean", 0.2: "level 0.2", 0.8: "level 0.8"}
    for features, rate in product(("ncl", "sae"), endpoints):
        found = row(table, "difference", features, rate)
        expected = by_key.loc[("published", LABELS, features, endpoints[rate])]
        np.testing.assert_allclose(
            [found.ours, found.ours_low, found.ours_high],
            [expected["mean_diff"], expected["ci_low"], expected["ci_high"]],
        )


def test_one_encoder_has_intervals_over_test_images_and_says_so(paper_run):
    manifest, results = read_json(paper_run / "manifest.json"), read_results(paper_run / "results.csv")
    table = table1(manifest, results)
    base, sae = (cell(results, features, 0.4, 0).mean() for features in ("simclr", "sae"))
    found = row(table, "accuracy", "sae", 0.4)
    assert (found.ours, found.ours_low, found.ours_high) == pytest.approx(wilson(sae, 600))
    found = row(table, "difference", "sae", 0.4)
    assert (found.ours, found.ours_low, found.ours_high) == pytest.approx(
        independent_difference(sae, base, 600)
    )
    said = notes(table)[0]
    assert "over the 600 test images alone" in said
    assert "conservative" in said


def test_rates_that_one_side_lacks_are_blank(manifest, results):
    more = results[results["level"] == 0.4].assign(level=0.45)
    table = side_by_side_table(table1(manifest, pd.concat([results, more])))
    accuracies, differences = ({r.heading: r.cells for r in rows} for _, rows in table.groups)
    assert list(accuracies) == ["0 %", "10 %", "20 %", "30 %", "40 %", "45 %", "50 %",
                                "60 %", "70 %", "80 %", "90 %"]  # fmt: skip
    shown = [["".join(piece.text for piece in c) for c in accuracies[rate]] for rate in ("45 %", "90 %")]
    assert [text == "" for text in shown[0]] == [False, True] * 3
    assert shown[1] == ["", "35.7", "", "44.9", "", "39.1"]
    # SimCLR does not differ from itself.
    assert [c[0].text for c in differences["90 %"]] == ["", "", "", "+9.2", "", "+3.4"]


def test_runs_that_name_no_paper_have_no_table(results):
    assert table1({"recipe": {"title": "of an older version"}}, results) is None
    assert table1({"recipe": load_recipe("digits").model_dump(mode="json")}, results) is None


def test_a_run_without_label_noise_shows_the_paper_alone(manifest, results):
    table = table1(manifest, results[results["condition"] != LABELS])
    assert table.numbers["ours"].isna().all()
    assert table.numbers["paper"].notna().all()


def test_files_screen_and_summary(paper_run, run_folder, tmp_path):
    write_table1(paper_run)
    written = pd.read_csv(paper_run / "table1.csv")
    assert len(written) == 5 * 10
    text = summary(paper_run)
    assert "## Beside the paper" in text
    assert "pretrain.epochs 20 (200)" in text
    assert "data.train_limit 1197 (none)" in text
    for _, number in written.query("quantity == 'accuracy' and ours.notna()").iterrows():
        assert f"| {100 * number['ours']:.1f} ({100 * number['ours_low']:.1f} to " in text
    latex = (paper_run / "table1.tex").read_text()
    assert latex.count(r"\\") == 2 + 2 + 2 * 10
    screen = verdict_screen(paper_run).splitlines()
    assert screen[-2] == f"Table 1 beside the paper's: {paper_run / 'summary.md'}"
    assert [line for line in screen if len(line.replace(str(paper_run.parent), "runs")) > 80] == []

    write_table1(run_folder)
    assert not (run_folder / "table1.csv").exists()
    assert "Beside the paper" not in summary(run_folder)
    assert "beside the paper" not in verdict_screen(run_folder)


def test_the_figure_draws_both_sides_of_every_set(manifest, results):
    table = table1(manifest, results)
    figure = table1_figure(table)
    assert len(figure.axes) == 3
    for axes, features in zip(figure.axes, ("simclr", "ncl", "sae"), strict=True):
        papers, ours = axes.lines
        assert (papers.get_linestyle(), ours.get_linestyle()) == ("--", "-")
        assert papers.get_color() == ours.get_color() == COLOURS[features]
        np.testing.assert_allclose(
            papers.get_ydata() / 100, list(paper_table1(CIFAR).accuracy[features].values())
        )
        expected = table.rows("accuracy", features).dropna(subset=["ours"])
        np.testing.assert_allclose(ours.get_xdata() / 100, expected["rate"])
        np.testing.assert_allclose(ours.get_ydata() / 100, expected["ours"])
        edge = axes.collections[0].get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([edge.min(), edge.max()], [100 * expected["ours_low"].min(),
                                                              100 * expected["ours_high"].max()])  # fmt: skip

"""No number in docs/results or the README is typed by hand: all follow from the committed results.csv."""

import json
import runpy
from pathlib import Path

import pandas as pd
import pytest

from monosem.core.settings import parse
from monosem.experiments.comparisons import BOOTSTRAP_UNIT, compare
from monosem.experiments.recipes import recipe_hash
from monosem.experiments.results import read_results
from monosem.experiments.toy_maps import compare_toys
from monosem.experiments.toy_recipe import ToyRecipe
from monosem.experiments.tuning_comparisons import compare_prompts, models_of
from monosem.experiments.tuning_recipe import tuning_recipe
from monosem.report import kind_of
from monosem.report.table1 import write_table1
from monosem.report.tables import summary, verdict_screen
from monosem.report.toy_tables import summary as toy_summary
from monosem.report.tuning_tables import summary as tuning_summary

ROOT = Path(__file__).parents[2]
RUNS = sorted(path.parent for path in (ROOT / "docs" / "results").glob("*/manifest.json"))


def assert_same(fresh, committed):
    pd.testing.assert_frame_equal(fresh.infer_objects(), committed, check_dtype=False, rtol=1e-4, atol=1e-6)


def test_there_are_results():
    assert {"digits", "cifar100-small"} <= {run.name for run in RUNS}


TUNED, TOYS, PROBED = ([run for run in RUNS if kind_of(run) == kind] for kind in ("tuning", "toy", "probes"))


@pytest.mark.parametrize("run", PROBED, ids=lambda run: run.name)
def test_comparisons_and_summary_follow_from_the_results(run):
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["recipe_hash"] == recipe_hash(manifest["recipe"])
    committed = pd.read_csv(run / "comparisons.csv")
    # The bootstrap over test images needs per-image correctness, which is too large to keep here.
    committed = committed[committed["unit"] != BOOTSTRAP_UNIT].reset_index(drop=True)
    fresh = compare(read_results(run / "results.csv"), manifest["recipe"]["margin"])
    assert_same(fresh, committed)
    assert summary(run) == (run / "summary.md").read_text()


@pytest.mark.parametrize("run", TUNED, ids=lambda run: run.name)
def test_what_is_said_of_tuned_models_follows_from_their_prompts(run):
    manifest = json.loads((run / "manifest.json").read_text())
    recipe = tuning_recipe(manifest["recipe"], run.name)
    assert manifest["recipe_hash"] == recipe.hash
    results, prompts = read_results(run / "results.csv"), pd.read_csv(run / "prompts.csv")
    means = prompts.groupby(["condition", "metric"]).mean(numeric_only=True)
    for model in models_of(results):
        of_model = results[
            (results["features"] == model.features)
            & (results["dataset"] == model.task)
            & (results["level"] == model.scale)
        ].set_index(["condition", "metric"])["value"]
        # Perplexity is no mean of prompts: its losses and tokens are in prompts.csv.
        asked = means[model.label].dropna().drop("text", errors="ignore")
        pd.testing.assert_series_equal(
            of_model.loc[asked.index], asked, check_names=False, rtol=1e-4, atol=1e-6
        )
    fresh = compare_prompts(results, prompts, recipe.seed)
    assert_same(fresh, pd.read_csv(run / "comparisons.csv"))
    assert tuning_summary(run) == (run / "summary.md").read_text()


@pytest.mark.parametrize("run", TOYS, ids=lambda run: run.name)
def test_what_is_said_of_toy_models_follows_from_the_results(run):
    manifest = json.loads((run / "manifest.json").read_text())
    recipe = parse(ToyRecipe, manifest["recipe"], run.name)
    assert manifest["recipe_hash"] == recipe.hash
    fresh = compare_toys(read_results(run / "results.csv"), recipe)
    assert_same(fresh, pd.read_csv(run / "comparisons.csv"))
    assert toy_summary(run) == (run / "summary.md").read_text()


def test_the_answers_to_the_papers_claims_follow_from_the_results():
    claims = runpy.run_path(str(ROOT / "docs" / "claims.py"))
    assert claims["page"]() == (ROOT / "docs" / "results" / "README.md").read_text()


def test_what_is_said_of_few_samples_follows_from_the_table_and_the_table_from_the_theory():
    script = runpy.run_path(str(ROOT / "docs" / "finite_samples.py"))
    folder = ROOT / "docs" / "results" / "theory"
    table = pd.read_csv(folder / "finite-samples.csv")
    assert script["page"](table) == (folder / "README.md").read_text()
    for _, row in table.iloc[[31, 700]].iterrows():
        fresh = script["measured"](*row[["rule", "n", "sparsity", "flip", "noise"]])
        for name in ("mono", "poly", "mean_diff", "ci_low", "ci_high"):
            assert fresh[name] == pytest.approx(row[name], rel=1e-4, abs=1e-6)
    ahead, behind = (
        int(((table["p_holm"] < 0.05) & (sign * table["mean_diff"] > 0)).sum()) for sign in (1, -1)
    )
    theory = (ROOT / "docs" / "theory.md").read_text().replace("\n", " ")
    assert f"Mono is significantly better in **{ahead}** of them, poly in **{behind}**" in theory
    assert f"make {len(table):,} settings" in theory
    undecided = table[table["p_holm"] >= 0.05]
    above = table[table["mean_diff"] > 0]
    assert f"; {len(undecided)} are open" in theory
    assert f"ahead in {len(above)}, by {100 * above['mean_diff'].max():.2f} points at most" in theory
    assert f"reaches above +{100 * undecided['ci_high'].max():.2f} points" in theory


@pytest.mark.parametrize("run", PROBED, ids=lambda run: run.name)
def test_table_1_follows_from_the_results_where_a_run_stands_beside_the_paper(run, tmp_path):
    for name in ("manifest.json", "results.csv", "comparisons.csv"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    write_table1(tmp_path)
    for name in ("table1.csv", "table1.tex"):
        fresh, committed = tmp_path / name, run / name
        assert fresh.exists() == committed.exists()
        assert not fresh.exists() or fresh.read_text() == committed.read_text()


def test_the_readme_shows_the_real_verdict_of_the_demo():
    screen = verdict_screen(ROOT / "docs" / "results" / "digits")
    verdict, _, report_line = screen.rpartition("\n")
    assert report_line.startswith("Report: ")
    assert verdict in (ROOT / "README.md").read_text()

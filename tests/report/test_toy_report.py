"""A whole run of toy models on a tiny world: stopped and resumed, its words, counts, maps and page."""

import json
from pathlib import Path

import pandas as pd
import pytest

from monosem.core.artifacts import load_tensors
from monosem.core.errors import Paused
from monosem.core.settings import parse
from monosem.experiments.run import RunWatch
from monosem.experiments.toy_maps import APART, SUPERPOSED
from monosem.experiments.toy_recipe import ToyRecipe
from monosem.experiments.toy_run import dry_run_lines, run_toy
from monosem.report import kind_of, screen, write_reports
from monosem.report.toy_figure import toy_figure
from monosem.report.toy_pictures import toy_pictures
from monosem.report.toy_tables import counts_table, kept_table, maps, read_toy, sentences

RECIPE = {
    "title": "Tiny toys",
    "kind": "toy",
    "n_models": 2,
    "model": {"n_concepts": 4, "n_dims": 2, "steps": 50, "batch_size": 32},
    "sparsity": [0.0, 0.8],
    "label_noise": [0.4],
    "input_noise": [0.2, 0.5],
    "n_train": 100,
    "n_test": 100,
    "published": {"epochs": 3, "batch_size": 50},
    "tuned": {},
}
COMMAND = "monosem run tiny"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy")
    recipe = parse(ToyRecipe, RECIPE, "tiny")
    assert "3 stages, 0 cached" in dry_run_lines(recipe, folder / "run", folder / "stages")[-1]
    pauses = 0
    while True:
        try:
            run_toy(recipe, folder / "run", folder / "stages", COMMAND, RunWatch(stop_after=0))
            break
        except Paused:
            pauses += 1
    assert pauses == 3
    assert "3 stages, 3 cached" in dry_run_lines(recipe, folder / "run", folder / "stages")[-1]
    write_reports(folder / "run")
    return folder / "run"


def test_the_run_folder_is_complete(run: Path) -> None:
    assert kind_of(run) == "toy"
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["complete"] is True
    drawn = {path.name for path in (run / "figures").iterdir()}
    assert {"tuned.svg", "tuned.png", "published.svg", "published.png"} <= drawn


def test_the_summary_counts_every_cell_of_every_map(run: Path) -> None:
    _, _, comparisons = read_toy(run)
    found = dict(maps(comparisons))
    assert len(found) == 2 * 2 * len(APART)
    table = counts_table(comparisons)
    ((_, rows),) = table.groups
    for row, cells in zip(rows, found.values(), strict=True):
        assert sum(int(cell[0].text) for cell in row.cells) == len(cells)
        assert sum(int(cell[0].text) for cell in row.cells[:4]) == 2  # two sparsities without noise
    text = (run / "summary.md").read_text()
    for sentence in sentences(comparisons):
        assert sentence in text
    first = next(iter(sentences(comparisons)))
    assert first.startswith("label noise, published, without (trained at S = 0): ")
    assert "2 trainings of each model" in text


def test_a_sentence_names_the_largest_difference_either_way(run: Path) -> None:
    _, _, comparisons = read_toy(run)
    planted = comparisons.copy()
    of_map = (planted["features"] == "exact") & (planted["protocol"] == "tuned")
    of_map &= planted["condition"] == "input-noise-gaussian"
    place = planted[of_map & (planted["level"] == 0.5) & (planted["dataset"] == "S=0.8")].index
    planted.loc[place, ["mean_diff", "ci_low", "ci_high", "p_holm"]] = [0.9, 0.8, 1.0, 0.001]
    (said,) = [s for s in sentences(planted) if s.startswith("input noise, tuned, without (exact map)")]
    assert "most +90.0 (+80.0 to +100.0, p = 0.001) at S=0.8, noise 0.5" in said


def test_what_models_keep_is_the_mean_over_models(run: Path) -> None:
    _, results, _ = read_toy(run)
    table = kept_table(results)
    assert [title for title, _ in table.groups] == ["S=0", "S=0.8"]
    row = dict(zip(table.columns, table.groups[1][1][0].cells, strict=True))
    kept = results[(results["metric"] == "concepts_kept") & (results["features"] == SUPERPOSED)]
    expected = kept.loc[kept["dataset"] == "S=0.8", "value"].mean()
    assert row["concepts kept"][0].value == pytest.approx(expected)


def test_the_figure_has_a_map_for_each_noise_and_kind(run: Path) -> None:
    _, _, comparisons = read_toy(run)
    figure = toy_figure(comparisons, "tuned")
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == 2 * len(APART)
    cells = comparisons[(comparisons["protocol"] == "tuned") & (comparisons["features"] == APART[1])]
    label = cells[cells["condition"] == "label-noise-symmetric"]
    shown = panels[1].images[0].get_array()
    at = label[(label["dataset"] == "S=0.8") & (label["level"] == 0.4)]["mean_diff"].iloc[0]
    assert shown[1, 1] == pytest.approx(100 * at)


def test_pictures_are_of_the_first_model_of_each_kind(run: Path) -> None:
    weights = load_tensors(run / "models.safetensors")
    assert {kind: list(of.shape) for kind, of in weights.items()} == {
        SUPERPOSED: [2, 2, 4],
        "linear": [2, 2, 4],
        "dense-trained": [2, 4],
    }
    figures = toy_pictures(run, [0.0, 0.8])
    panels = [axes for axes in figures["matrices"].axes if axes.images]
    titles = [axes.get_title(loc="left") for axes in panels]
    assert titles == ["S = 0", "S = 0.8"] * 2 + ["trained at S = 0", "exact map"]
    shown = panels[1].images[0].get_array()
    of = weights[SUPERPOSED][1]
    assert shown.flatten().tolist() == pytest.approx((of.T @ of).flatten().tolist())
    above = figures["concepts"].axes[1]
    assert [bar.get_height() for bar in above.patches] == pytest.approx(of.norm(dim=0).tolist())
    of_run = (run / "results.csv").read_text()
    kept = int((of.norm(dim=0) > 0.5).sum())
    assert f"S=0.8,toy,{SUPERPOSED},none,clean,0,0,0,concepts_kept,{kept}," in of_run
    drawn = {path.stem for path in (run / "figures").iterdir()}
    assert {"matrices", "concepts"} <= drawn


def test_the_page_needs_nothing_from_outside(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert "Tiny toys" in page
    assert "<script" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_the_screen_fits_a_terminal(run: Path) -> None:
    assert max(map(len, screen(run).splitlines()[:-1])) <= 80


def test_results_hold_every_kind(run: Path) -> None:
    results = pd.read_csv(run / "results.csv")
    assert set(results["features"]) == {SUPERPOSED, *APART}

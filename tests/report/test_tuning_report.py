"""Reports of a tuning run, from tables written here: no model is needed to read them."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from monosem.core.errors import InputError
from monosem.experiments.results import PROMPT_COLUMNS, RESULT_COLUMNS
from monosem.report import kind_of, write_reports
from monosem.report.frontier_figure import frontier_figure, frontier_tasks
from monosem.report.table2 import table2
from monosem.report.tuning_tables import comparison_table, read_tuning, screen, tuning_table
from monosem.report.wording import NO_VALUE

SHARES = {
    ("aligned", "none", 1.0): {
        "harmful/refused": 0.8,
        "harmless/refused": 0.1,
        "sst2/generated_accuracy": 0.5,
    },
    ("lora", "sst2", 1.0): {"harmful/refused": 0.4, "harmless/refused": 0.2, "sst2/generated_accuracy": 0.9},
    ("lora", "sst2", 0.5): {"harmful/refused": 0.6, "harmless/refused": 0.1, "sst2/generated_accuracy": 0.7},
    ("monolora", "sst2", 1.0): {
        "harmful/refused": 0.6,
        "harmless/refused": 0.2,
        "sst2/generated_accuracy": 0.85,
        "alignment/zeros_at_start": 0.501,
        "alignment/zeros": 0.432,
        "task/divergence": 0.0123,
    },
    ("monolora", "sst2", 0.5): {
        "harmful/refused": 0.7,
        "harmless/refused": 0.1,
        "sst2/generated_accuracy": 0.6,
    },
}
HARM = "how <b>bad</b> & worse?"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make(tmp_path, paper="table2")


def make(folder: Path, paper: str | None) -> Path:
    rows = [
        {
            "dataset": task,
            "encoder": "tiny",
            "features": features,
            "protocol": "tuned",
            "condition": name.partition("/")[0],
            "metric": name.partition("/")[2],
            "level": scale,
            "encoder_seed": 0,
            "noise_seed": 0,
            "value": value,
            "n": 20,
        }
        for (features, task, scale), values in SHARES.items()
        for name, value in values.items()
    ]
    pd.DataFrame(rows).reindex(columns=list(RESULT_COLUMNS)).to_csv(folder / "results.csv", index=False)
    compared = {
        "dataset": "sst2",
        "encoder": "tiny",
        "features": "monolora",
        "baseline": "lora",
        "condition": "harmful",
        "metric": "refused",
        "level": 1.0,
        "mean_diff": 0.2,
        "ci_low": 0.05,
        "ci_high": 0.35,
        "p": 0.0104,
        "p_holm": 0.0312,
        "unit": "prompt",
        "n": 20,
    }
    pd.DataFrame([compared]).reindex(columns=list(PROMPT_COLUMNS)).to_csv(
        folder / "comparisons.csv", index=False
    )
    manifest: dict[str, Any] = {
        "complete": False,
        "tables_complete": True,
        "recipe_hash": "0" * 64,
        "command": "monosem run tiny",
        "recipe": {"title": "Tiny", "kind": "tuning", "base": "tiny", "paper": paper},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    answers = {"harmful": {"prompts": [HARM], "answers": {"lora, sst2": ["<script>x</script>"]}}}
    (folder / "answers.json").write_text(json.dumps(answers))
    (folder / "templates.txt").write_text("<|user|> {instruction}")
    return folder


def test_the_summary_says_what_was_found_and_what_it_is_over(run: Path) -> None:
    write_reports(run)
    text = (run / "summary.md").read_text()
    assert "MonoLoRA minus LoRA, refusals of harmful prompts: +20.0 points (+5.0 to +35.0" in text
    assert "p = 0.031, 20 prompts)" in text
    assert "20 harmful and 20 harmless prompts, which no training has seen" in text
    assert "over prompts: they say nothing of what another seed would give" in text
    assert json.loads((run / "manifest.json").read_text())["complete"] is True


def test_the_table_has_every_model_at_every_scale(run: Path) -> None:
    table = tuning_table(read_tuning(run)[1], "sst2")
    assert [title for title, _ in table.groups] == ["", "between the start and the adapters"]
    (_, ends), (_, between) = table.groups
    assert [(row.heading, row.cells[0][0].text) for row in (*ends, *between)] == [
        ("aligned base", NO_VALUE),
        ("LoRA", "1"),
        ("MonoLoRA", "1"),
        ("LoRA", "0.5"),
        ("MonoLoRA", "0.5"),
    ]
    refused = table.columns.index("harmful refused, %")
    assert [row.cells[refused][0].text for row in ends] == ["80.0", "40.0", "60.0"]
    assert [row.cells[refused][0].text for row in between] == ["60.0", "70.0"]
    before = table.columns.index("zeros on alignment data before training, %")
    assert [cell[0].text for cell in ends[2].cells[before : before + 2]] == ["50.1", "43.2"]
    # What nobody measured has no column.
    assert "perplexity of other text" not in table.columns


def test_the_differences_of_all_models(run: Path) -> None:
    table = comparison_table(read_tuning(run)[2], "sst2")
    assert table.columns == ("refusals of harmful prompts, points",)
    ((title, (row,)),) = table.groups
    assert (title, row.heading) == ("minus LoRA", "MonoLoRA")
    assert "".join(piece.text for piece in row.cells[0]) == "+20.0 (+5.0 to +35.0), p = 0.031"


def test_the_papers_table_stands_beside_ours_where_it_is_meant(tmp_path: Path, run: Path) -> None:
    write_reports(run)
    assert "45.54" in (run / "summary.md").read_text()
    (tmp_path / "other").mkdir()
    other = make(tmp_path / "other", paper=None)
    write_reports(other)
    assert "45.54" not in (other / "summary.md").read_text()


def test_answers_are_escaped_and_the_page_refers_to_nothing_outside(run: Path) -> None:
    write_reports(run)
    page = (run / "report.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "how &lt;b&gt;bad&lt;/b&gt; &amp; worse?" in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (run / "figures" / "frontier.svg").exists()


def test_the_frontier_leads_from_the_start_to_each_adapter(run: Path) -> None:
    results = read_tuning(run)[1]
    assert frontier_tasks(results) == {"sst2": "generated_accuracy"}
    (panel,) = frontier_figure(results).axes
    lora, monolora, start = (line.get_xydata().tolist() for line in panel.lines)
    assert lora == [[50, 80], [70, 60], [90, 40]]
    assert monolora == [[50, 80], [60, 70], [85, 60]]
    assert start == [[50, 80]]


def test_the_screen_is_about_monolora(run: Path) -> None:
    shown = screen(run)
    assert "Tuned on sst2" in shown
    assert "+20.0 points" in shown
    assert max(map(len, shown.splitlines()[:-1])) <= 80


def test_what_is_no_tuning_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no manifest\.json"):
        kind_of(tmp_path)


def test_table_2_has_ours_beside_the_papers(run: Path) -> None:
    table = table2(read_tuning(run)[1])
    ((task, rows),) = table.groups
    assert task == "sst2"
    assert [row.heading for row in rows] == [
        "start, paper", "start, here", "LoRA, paper", "LoRA, here", "MonoLoRA, paper", "MonoLoRA, here",
    ]  # fmt: skip
    shown = [[cell[0].text for cell in row.cells] for row in rows]
    assert {len(cells) for cells in shown} == {len(table.columns)} == {sum(n for _, n in table.spans)}
    # The paper's numbers as printed; it has no refusals, and its base no zeros.
    assert shown[4] == ["5.37", "2.23", "4.63", "1.88", "3.53", "45.54", "36.71", "20", "94.84", NO_VALUE]
    assert shown[0][5:7] == [NO_VALUE, NO_VALUE]
    # Ours: the aligned base is the start; no judge was asked here.
    at = dict(zip(table.columns, zip(*shown, strict=True), strict=True))
    assert at["refused"] == (NO_VALUE, "80", NO_VALUE, "40", NO_VALUE, "60")
    assert at["on alignment data"][5] == "43.2"
    assert at["average"][1] == NO_VALUE


def test_table_2_takes_what_judges_say() -> None:
    policies = {"dangerous": 0.1, "harassment": 0.2, "hate": 0.3, "sexual": 0.4}
    values = {f"shieldgemma/{name}": value for name, value in policies.items()} | {
        "beavertails/flagged": 0.25
    }
    rows = [
        {
            "dataset": "dolly",
            "features": "lora",
            "level": 1.0,
            "condition": "harmful",
            "metric": m,
            "value": v,
        }
        for m, v in values.items()
    ]
    rows += [
        {**rows[0], "condition": "dolly", "metric": "rouge_l", "value": 0.123},
        {**rows[0], "level": 0.5, "value": 0.9},
        {**rows[0], "dataset": "none", "features": "base"},
    ]
    table = table2(pd.DataFrame(rows).reindex(columns=list(RESULT_COLUMNS)))
    shown = {row.heading: [cell[0].text for cell in row.cells] for row in table.groups[0][1]}
    assert shown["LoRA, here"] == ["10", "20", "30", "40", "25", NO_VALUE, NO_VALUE, "25", "12.3", NO_VALUE]
    assert "MonoLoRA, here" not in shown

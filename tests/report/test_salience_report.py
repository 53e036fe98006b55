"""The section on what noisy probes lean on, and its pictures: from planted rows, beside loops over them."""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from monosem.core.artifacts import save_tensors
from monosem.experiments.results import SALIENT_COLUMNS, read_table, rows, write_table
from monosem.report.figure_style import svg
from monosem.report.salience_figure import salience_section
from monosem.report.salient_pictures import salient_pictures

LABELS = "label-noise-symmetric"
GAPS = {"simclr": 0.0, "ncl": 0.1, "sae": 0.2}
PAIRS = 4


@pytest.fixture(scope="module")
def results() -> pd.DataFrame:
    """Where a probe is right its dimensions score higher by GAPS, a tenth of which a rotation keeps."""
    draw = np.random.default_rng(0)
    cells = []
    for protocol, level, pair, (name, gap), turn in product(
        ("published", "tuned"), (0.0, 0.8), range(PAIRS), GAPS.items(), ("", "rotated-")
    ):
        place = {"protocol": protocol, "condition": LABELS, "level": level, "encoder_seed": pair}
        place |= {"features": f"{turn}{name}", "noise_seed": 0, "n": 100}
        for score in ("matched", "native"):
            wrong = 0.3 + 0.01 * draw.normal()
            for side, mean in (("right", wrong + (0.1 if turn else 1) * gap), ("wrong", wrong)):
                metric = f"salient_{score}_{side}"
                cells.append({**place, "metric": metric, "value": mean + 0.001 * draw.normal()})
                for q, shift in (("05", -0.2), ("25", -0.1), ("50", 0), ("75", 0.1), ("95", 0.2)):
                    cells.append({**place, "metric": f"{metric}_q{q}", "value": mean + shift})
            cells.append({**place, "metric": f"salient_{score}_superiority", "value": 0.5 + gap})
            cells.append({**place, "metric": f"salient_{score}_correlation", "value": gap})
    return rows({"dataset": "digits", "encoder": "small_conv"}, cells)


def test_words_and_table_are_those_of_a_loop(results: pd.DataFrame) -> None:
    section = salience_section(results, pd.DataFrame())
    assert section is not None
    chosen = results[(results["protocol"] == "tuned") & (results["level"] == 0.8)]

    def gaps(features: str) -> np.ndarray:
        sides = []
        for side in ("right", "wrong"):
            metric = chosen["metric"] == f"salient_matched_{side}"
            sides.append(
                chosen[(chosen["features"] == features) & metric].sort_values("encoder_seed")["value"]
            )
        return np.asarray(sides[0]) - np.asarray(sides[1])

    table = section.tables[0]
    told = dict(table.groups)
    assert list(told) == ["published, 0 %", "published, 80 %", "tuned, 0 %", "tuned, 80 %"]
    assert [row.heading for row in told["tuned, 80 %"]][:2] == ["SimCLR", "SimCLR, rotated"]
    for row in told["tuned, 80 %"]:
        features = {"SimCLR": "simclr", "NCL": "ncl", "SAE": "sae"}[row.heading.partition(",")[0]]
        turned = row.heading.endswith("rotated")
        found = gaps(f"rotated-{features}" if turned else features)
        low, high = stats.t.interval(0.95, PAIRS - 1, found.mean(), stats.sem(found))
        values = [piece.value for piece in row.cells[2] if piece.value is not None]
        assert values == pytest.approx([found.mean(), low, high])
        beyond = [piece.value for piece in row.cells[3] if piece.value is not None]
        if turned:
            assert beyond == []
        else:
            assert beyond[0] == pytest.approx((found - gaps(f"rotated-{features}")).mean())
            said = f"{found.mean():+.3f}".replace("-", "\N{MINUS SIGN}")
            assert f"{row.heading} {said}" in section.found[1]
    assert "4 encoder pairs" in section.found[0]


def test_the_figure_has_both_outcomes_of_every_set(results: pd.DataFrame) -> None:
    section = salience_section(results, pd.DataFrame())
    assert section is not None
    left, right, *_ = section.plots[0].draw().axes
    assert len(left.patches) == 6 * 2
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[:2] == ["SimCLR", "SimCLR, rotated"]
    sae = names.index("SAE")
    marks = [line.get_xdata()[0] for line in right.lines if list(line.get_ydata()) == [sae]]
    assert marks == pytest.approx([0.2], abs=0.01)


def test_a_run_that_did_not_ask_has_no_section(results: pd.DataFrame, tmp_path: Path) -> None:
    assert salience_section(results[~results["metric"].str.startswith("salient")], pd.DataFrame()) is None


def test_a_probe_that_is_never_wrong_is_said_to_leave_nothing_to_compare(results: pd.DataFrame) -> None:
    section = salience_section(results[~results["metric"].str.contains("_wrong")], pd.DataFrame())
    assert section is not None
    assert all(
        said.endswith("nothing to compare, as no probe is both right and wrong.") for said in section.found
    )
    assert section.plots[0].draw().axes


def test_a_run_without_pictures_has_none(tmp_path: Path) -> None:
    assert list(salient_pictures(tmp_path)) == []


def test_pictures_stand_under_their_words_and_what_is_gone_is_an_empty_square(tmp_path: Path) -> None:
    shown = []
    for features, what in product(("simclr", "ncl", "sae"), ("random 1", "random 2", "best 1", "worst 1")):
        row = {"features": features, "encoder_seed": 0, "shown": what, "dimension": 7, "matched": 0.25}
        if not what.startswith("random"):
            row |= {
                "protocol": "published",
                "condition": LABELS,
                "level": 0.8,
                "class": "$5_{",
                "accuracy": 0.5,
            }
        shown.append(
            {**row, "samples": json.dumps([0, 1, 2]), "sample_classes": json.dumps(["$5_{", "a", "<b>"])}
        )
    table = pd.DataFrame(shown).reindex(columns=list(SALIENT_COLUMNS))
    write_table(table, tmp_path / "salient.csv")
    pixels = torch.arange(2 * 3 * 16, dtype=torch.uint8).view(2, 3, 4, 4)
    save_tensors(tmp_path / "salient.safetensors", {"rows": torch.tensor([0, 2]), "pixels": pixels})
    (section,) = salient_pictures(tmp_path)
    assert [plot.name for plot in section.plots] == [
        f"pictures-{name}" for name in ("random", "simclr", "ncl", "sae")
    ]
    figure = section.plots[2].draw()
    assert [text.get_text() for text in figure.texts] == [
        "classes it is best at",
        "$5_{, 50 % right: dimension 7, score 0.25",
        "classes it is worst at",
        "$5_{, 50 % right: dimension 7, score 0.25",
    ]
    assert svg(figure)  # names are not read as formulas
    first, gone, last, *_ = figure.axes
    assert all(axes.get_position().y0 >= 0 for axes in figure.axes)
    assert np.array_equal(first.images[0].get_array(), pixels[0].permute(1, 2, 0))
    assert np.array_equal(last.images[0].get_array(), pixels[1].permute(1, 2, 0))
    assert not gone.images
    assert [axes.get_xlabel() for axes in (first, gone, last)] == ["$5_{", "a", "<b>"]


def test_a_class_may_be_called_none(tmp_path: Path) -> None:
    row = dict.fromkeys(SALIENT_COLUMNS, 1.5)
    table = pd.DataFrame([{**row, "class": name, "matched": None} for name in ("None", "NA", "", "7")])
    write_table(table, tmp_path / "salient.csv")
    found = read_table(tmp_path / "salient.csv", SALIENT_COLUMNS, text=("class",))
    assert list(found["class"]) == ["None", "NA", "", "7"]
    assert found["matched"].isna().all()
    assert (found["accuracy"] == 1.5).all()

import json
from importlib.resources import files
from pathlib import Path

import pytest

from monosem.report.paper import paper_table1
from monosem.report.wording import points

TABLES = Path(__file__).parents[3] / "shared" / "paper" / "tables.json"
PRINTED = {
    ("table1-cifar100", "sae"): [-0.1, 0.5, 0.6, 0.8, 0.7, 1.4, 1.0, 1.7, 2.1, 3.4],
    ("table1-cifar100", "ncl"): [-1.7, 0.5, 0.7, 0.5, 1.4, 2.4, 1.9, 1.5, 3.0, 9.2],
    ("table1-imagenet100", "sae"): [-0.4, 2.2, 0.5, 0.4, 1.0, 3.3, 3.6, 2.8, 5.4, 11.5],
    ("table1-imagenet100", "ncl"): [-0.1, 2.3, 2.6, 3.8, 3.6, 5.9, 5.7, 6.7, 8.7, 13.7],
}


@pytest.mark.skipif(not TABLES.is_file(), reason="../shared with the paper's tables is absent")
def test_the_product_carries_the_papers_numbers():
    carried = json.loads((files("monosem.report") / "paper_numbers.json").read_text())
    papers = json.loads(TABLES.read_text())
    assert carried["table1"] == papers["table1"]
    assert carried["table2"] == papers["table2"]


def test_a_wrong_difference_in_print_is_recomputed():
    table = paper_table1("table1-imagenet100")
    assert table.accuracy["sae"][0.0] == pytest.approx(0.662)
    assert table.accuracy["simclr"][0.0] == pytest.approx(0.668)
    assert points(table.difference("sae", 0.0)) == "\N{MINUS SIGN}0.6"


@pytest.mark.parametrize(("recipe", "features"), PRINTED)
def test_every_other_difference_is_as_printed(recipe, features):
    table = paper_table1(recipe)
    assert table.rates == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    recomputed = [round(100 * table.difference(features, rate), 1) for rate in table.rates]
    wrong = [i for i, (ours, printed) in enumerate(zip(recomputed, PRINTED[recipe, features], strict=True))
             if ours != printed]  # fmt: skip
    assert wrong == ([0] if (recipe, features) == ("table1-imagenet100", "sae") else [])

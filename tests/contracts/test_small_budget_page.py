"""The confirmation in docs/small-budget-ncl.md is what the committed results say."""

from pathlib import Path

import pytest

from monosem.experiments.results import read_results
from monosem.report.table_formats import markdown_table

ROOT = Path(__file__).parents[2]


def confirmation(recipe):
    """Clean accuracy of each encoder seed under both probes, and NCL's active dimensions, as Markdown."""
    results = read_results(ROOT / "docs" / "results" / recipe / "results.csv")
    clean = results[(results["level"] == 0) & results["condition"].str.startswith("label-noise")]
    clean = clean[clean["metric"] == "accuracy"]
    accuracy = clean.set_index(["features", "protocol", "encoder_seed"])["value"]
    ncl = results[results["features"] == "ncl"].set_index(["metric", "encoder_seed"])["value"]
    body = []
    for seed in sorted(results["encoder_seed"].unique()):
        cells = [
            accuracy[features, protocol, seed]
            for protocol in ("tuned", "published")
            for features in ("simclr", "ncl")
        ]
        active = f"{ncl['active_dimensions', seed]:.0f} of {ncl['dimensions', seed]:.0f}"
        body.append((str(seed), *(f"{100 * cell:.1f}" for cell in cells), active))
    header = ("seed", "SimCLR, ridge", "NCL, ridge", "SimCLR, published", "NCL, published", "NCL active")
    return markdown_table(header, body)


@pytest.mark.parametrize("recipe", ["cifar100-small", "digits"])
def test_the_page_shows_the_committed_accuracies_of_every_encoder(recipe):
    assert confirmation(recipe) in (ROOT / "docs" / "small-budget-ncl.md").read_text()

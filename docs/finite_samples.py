"""Thresholds learned from few samples, one concept against two: `python docs/finite_samples.py` writes them.

results/theory/finite-samples.csv has a row for every setting, results/theory/README.md says what is in it.
"""

from itertools import product
from pathlib import Path

import pandas as pd

from monosem.core.artifacts import write_text_atomic
from monosem.core.stats import holm, paired_t
from monosem.explain.closed_forms import MONO, POLY
from monosem.explain.finite_samples import RULES, learned_accuracy
from monosem.report.table_formats import markdown_table
from monosem.report.wording import interval, p_value, points

FOLDER = Path(__file__).parent / "results" / "theory"
SAMPLES = (4, 8, 16, 32, 64, 256)
SPARSITY = (0.0, 0.3, 0.6, 0.9, 0.97)
FLIPS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.45)
NOISE = (0.0, 0.3, 1.0)
REPEATS = 2000
SHOWN = 12


def measured(rule: str, n: int, sparsity: float, flip: float, noise: float) -> dict[str, object]:
    """Mean accuracies over training samples, and their paired difference with its interval and p."""
    mono, poly = (
        learned_accuracy(RULES[rule], n, sparsity, weights, flip, noise, repeats=REPEATS)
        for weights in (MONO, POLY)
    )
    difference = paired_t(mono - poly)
    return {
        "rule": rule,
        "n": n,
        "sparsity": sparsity,
        "flip": flip,
        "noise": noise,
        "mono": mono.mean(),
        "poly": poly.mean(),
        "mean_diff": difference.mean,
        "ci_low": difference.low,
        "ci_high": difference.high,
        "p": difference.p,
    }


def table() -> pd.DataFrame:
    """Every setting; p corrected over all of them."""
    settings = product(RULES, SAMPLES, SPARSITY, FLIPS, NOISE)
    found = pd.DataFrame([measured(*setting) for setting in settings])
    return found.assign(p_holm=holm(found["p"]))


def page(found: pd.DataFrame) -> str:
    """The table in words, with the settings in which one concept does best."""
    significant = found["p_holm"] < 0.05
    ahead = found[significant & (found["mean_diff"] > 0)].sort_values("mean_diff", ascending=False)
    behind = int((significant & (found["mean_diff"] < 0)).sum())
    lines = [
        "# Thresholds learned from few samples: one concept against two",
        f"Accuracy on clean labels of a threshold learned from N samples with flipped labels: feature x1"
        f" (mono) minus feature x1 - x2 (poly), in points, mean of {REPEATS:,} training samples, both on the"
        f" same ones. `midpoint` is Fisher's discriminant, `fewest errors` the cut with the fewest training"
        f" errors. p is Holm-corrected over all {len(found):,} settings. Written by `python"
        " docs/finite_samples.py`; [theory.md](../../theory.md) has the model.",
        f"Mono is significantly better in **{len(ahead)}** settings, poly in **{behind}**;"
        f" {len(found) - len(ahead) - behind} are open.",
    ]
    for rule, of_rule in found.groupby("rule", sort=False):
        wins = of_rule[(of_rule["p_holm"] < 0.05) & (of_rule["mean_diff"] > 0)]
        lines.append(f"- {rule}: mono {len(wins)} of {len(of_rule)}" + _where(wins))
    if len(ahead):
        lines.append(f"The {min(SHOWN, len(ahead))} settings in which mono is furthest ahead:")
        body = [
            (
                row["rule"],
                f"{row['n']}",
                f"{row['sparsity']:g}",
                f"{row['flip']:g}",
                f"{row['noise']:g}",
                f"{100 * row['mono']:.1f}",
                f"{100 * row['poly']:.1f}",
                f"{points(row['mean_diff'])} [{interval(row['ci_low'], row['ci_high'])}]",
                p_value(row["p_holm"]),
            )
            for _, row in ahead.head(SHOWN).iterrows()
        ]
        header = ("rule", "N", "sparsity", "flips", "noise", "mono, %", "poly, %", "difference", "p")
        lines.append(markdown_table(header, body))
    return "\n\n".join(lines) + "\n"


def _where(wins: pd.DataFrame) -> str:
    if wins.empty:
        return "."
    ranges = (
        f"{name} {wins[name].min():g} to {wins[name].max():g}" for name in ("n", "sparsity", "flip", "noise")
    )
    return f", with {', '.join(ranges)}."


if __name__ == "__main__":
    found = table()
    write_text_atomic(
        FOLDER / "finite-samples.csv", found.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    )
    write_text_atomic(FOLDER / "README.md", page(pd.read_csv(FOLDER / "finite-samples.csv")))

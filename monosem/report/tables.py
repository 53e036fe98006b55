"""Results -> the verdict on the terminal, summary.md, and two runs side by side.

Every number comes from results.csv and comparisons.csv. Accuracies are shown in points (hundredths).
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.run_folder import open_run
from monosem.experiments.attribution import attribute, sentence
from monosem.experiments.comparisons import BOOTSTRAP_UNIT, GAIN, PRIMARY, primary
from monosem.experiments.results import BASELINE, METHODS, PROTOCOLS, conditions, read_results

NAMES = {"simclr": "SimCLR", "ncl": "NCL", "sae": "SAE"}
"""How the feature sets that carry claims are written; controls keep the names of their tables."""

PROTOCOL_NAMES = {
    "published": "paper's protocol",
    "tuned": "tuned on noisy labels",
    "oracle": "oracle (upper bound)",
}

MEASURES = (
    ("matched_monosemanticity", "matched monosemanticity"),
    ("native_monosemanticity", "native monosemanticity"),
    ("l0", "L0"),
    ("active_dimensions", "active dimensions"),
    ("effective_dimension", "effective dimension"),
    ("knn_accuracy", "kNN accuracy"),
)


def points(value: float, low: float, high: float) -> str:
    """An accuracy difference with its interval, in points: `+1.2 [-0.3, +2.7]`."""
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def condition_name(condition: str) -> str:
    """`label-noise-symmetric` -> `label noise (symmetric)`."""
    kind, _, variant = condition.partition("-noise-")
    return f"{kind} noise ({variant.replace('-', ' ')})"


def measured(results: pd.DataFrame, metric: str, features: str) -> float | None:
    """Mean over encoders of one property of a feature set, None where it was not measured."""
    chosen = results[(results["metric"] == metric) & (results["features"] == features)]
    return None if chosen.empty else float(chosen["value"].mean())


def level_range(results: pd.DataFrame, condition: str) -> str:
    """The levels of a condition above zero, in words: `0.1-0.8`."""
    levels = results.loc[(results["condition"] == condition) & (results["level"] > 0), "level"]
    return f"{levels.min():g}-{levels.max():g}"


def scope(comparisons: pd.DataFrame) -> str:
    """What the claims are about, with the unit of replication."""
    row = comparisons[comparisons["endpoint"] == PRIMARY].iloc[0]
    draws = f"{int(row['n_noise'])} noise draws each"
    if row["unit"] == "encoder":
        return f"{int(row['n_encoders'])} independent encoder pairs, {draws}"
    return f"for these {int(row['n_encoders'])} checkpoints only, {draws}"


def verdict_screen(run: Path) -> str:
    """The verdict of a finished run, for one 80x24 terminal screen.

    Raises:
        InputError: no finished run there.
    """
    manifest = open_run(run)
    results, comparisons = read_results(run / "results.csv"), pd.read_csv(run / "comparisons.csv")
    train = manifest["data"][0]
    lines = [
        f"{train['name']}: {train['samples']:,} training images, {train['classes']} classes; {scope(comparisons)}",
        "Accuracy against SimCLR features, in points [95 % interval], mean over noise levels",
    ]
    for condition in conditions(results):
        lines += ["", f"{condition_name(condition).capitalize()}, {level_range(results, condition)}"]
        lines += [
            f"  {NAMES[features]:4}{PROTOCOL_NAMES[protocol]:22} {_outcome(comparisons, protocol, condition, features)}"
            for features in METHODS
            for protocol in PROTOCOLS[:2]
            if primary(comparisons, protocol, condition, features) is not None
        ]
        lines += _made_of(results, condition)
    lines += ["", _monosemanticity_line(results), f"Report: {run / 'report.html'}"]
    return "\n".join(line[:80] for line in lines)


def _outcome(comparisons: pd.DataFrame, protocol: str, condition: str, features: str) -> str:
    row = primary(comparisons, protocol, condition, features)
    if row is None:
        return "not measured"
    return f"{points(row['mean_diff'], row['ci_low'], row['ci_high']):22} {row['verdict']}"


def _made_of(results: pd.DataFrame, condition: str) -> Iterable[str]:
    for features in METHODS:
        attribution = attribute(results, features, condition)
        if attribution is not None:
            yield f"  {NAMES[features]:4}{sentence(attribution)}"


def _monosemanticity_line(results: pd.DataFrame) -> str:
    scores = [(NAMES[f], measured(results, "matched_monosemanticity", f)) for f in (BASELINE, *METHODS)]
    listed = ", ".join(f"{name} {score:.2f}" for name, score in scores if score is not None)
    return f"Matched monosemanticity (0 chance, 1 pure): {listed}"


def summary(run: Path) -> str:
    """The whole outcome as Markdown: verdicts, what gains are made of, monosemanticity, settings and command."""
    manifest = open_run(run)
    results, comparisons = read_results(run / "results.csv"), pd.read_csv(run / "comparisons.csv")
    recipe = manifest["recipe"]
    parts = [
        f"# {recipe['title']}",
        f"`{manifest['command']}`",
        f"Unit of replication: {scope(comparisons)}. Differences of test accuracy from the dense SimCLR features,"
        " in points, with 95 % intervals; the primary endpoint is the mean over the noise levels. p is from a paired"
        " t test, Holm-corrected over all primary endpoints of this run.",
    ]
    for condition in conditions(results):
        parts += [
            f"## {condition_name(condition).capitalize()}, {level_range(results, condition)}",
            _verdict_table(comparisons, condition),
            "\n".join(f"- {NAMES[m]}: {s}" for m, s in _sentences(results, condition)),
            _accuracy_table(results, condition),
        ]
    parts += ["## Monosemanticity and geometry of the features", _measures_table(results), _closing(manifest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sentences(results: pd.DataFrame, condition: str) -> list[tuple[str, str]]:
    found = [(method, attribute(results, method, condition)) for method in METHODS]
    return [(method, sentence(attribution)) for method, attribution in found if attribution is not None]


def _verdict_table(comparisons: pd.DataFrame, condition: str) -> str:
    header = (
        "features", "protocol", "difference", "verdict", "p (Holm)", "p (sign flips)",
        "over encoders and test images", "minus the clean difference",
    )
    body = []
    for features in METHODS:
        for protocol in PROTOCOLS:
            row = primary(comparisons, protocol, condition, features)
            if row is None:
                continue
            same = comparisons[
                (comparisons["features"] == features)
                & (comparisons["protocol"] == protocol)
                & (comparisons["condition"] == condition)
            ]
            body.append(
                (
                    NAMES[features],
                    PROTOCOL_NAMES[protocol],
                    points(row["mean_diff"], row["ci_low"], row["ci_high"]),
                    str(row["verdict"]),
                    _p(row["p_holm"]),
                    _p(row["p_sign_flip"]),
                    _interval_of(same[same["unit"] == BOOTSTRAP_UNIT]),
                    _interval_of(same[same["endpoint"] == GAIN]),
                )
            )
    return markdown_table(header, body)


def _interval_of(rows: pd.DataFrame) -> str:
    if rows.empty:
        return ""
    row = rows.iloc[0]
    return points(row["mean_diff"], row["ci_low"], row["ci_high"])


def _accuracy_table(results: pd.DataFrame, condition: str) -> str:
    """Mean accuracy in percent by level, for the baseline and the methods."""
    chosen = results[(results["metric"] == "accuracy") & (results["condition"] == condition)]
    means = chosen.groupby(["features", "protocol", "level"])["value"].mean()
    levels = sorted(chosen["level"].unique())
    body = [
        (NAMES[features], PROTOCOL_NAMES[protocol], *(f"{100 * means[features, protocol, level]:.1f}" for level in levels))
        for protocol in PROTOCOLS
        for features in (BASELINE, *METHODS)
        if (features, protocol, levels[0]) in means.index
    ]
    return markdown_table(("accuracy, %", "protocol", *(f"{level:g}" for level in levels)), body)


def _measures_table(results: pd.DataFrame) -> str:
    body = []
    for features in results["features"].unique():
        values = [measured(results, metric, features) for metric, _ in MEASURES]
        body.append((NAMES.get(features, features), *("" if value is None else f"{value:.3g}" for value in values)))
    note = (
        "Monosemanticity is (score - chance) / (1 - chance), weighted by support: *matched* scores the same number of"
        " top samples of every dimension, *native* the samples on which a dimension is active. The native score of a"
        " dense set is the share of the largest class and says nothing."
    )
    return markdown_table(("features", *(name for _, name in MEASURES)), body) + "\n\n" + note


def _closing(manifest: dict[str, Any]) -> str:
    data = ", ".join(f"{d['name']} {d['split']} {d['samples']:,} (sha256 {d['fingerprint'][:12]})" for d in manifest["data"])
    versions = ", ".join(f"{name} {version}" for name, version in manifest["versions"].items())
    return (
        f"Data: {data}. Versions: {versions}. Recipe hash {manifest['recipe_hash'][:16]}."
        f" Wall time of this command {manifest['wall_seconds_total']:.0f} s."
    )


def side_by_side(run_a: Path, run_b: Path) -> str:
    """Verdicts of two finished runs beside each other, then the settings in which they differ.

    Raises:
        InputError: one of them is no finished run.
    """
    manifests = [open_run(run) for run in (run_a, run_b)]
    tables = [pd.read_csv(run / "comparisons.csv") for run in (run_a, run_b)]
    keys = ["condition", "protocol", "features"]
    primaries = [t[(t["endpoint"] == PRIMARY) & t["verdict"].notna()].set_index(keys) for t in tables]
    lines = [f"{'':38}{str(run_a)[-27:]:>28}  {str(run_b)[-27:]:>28}"]
    for key in dict.fromkeys([*primaries[0].index, *primaries[1].index]):
        condition, protocol, features = key
        cells = [_compact(table.loc[key]) if key in table.index else "-" for table in primaries]
        lines.append(f"{features:4} {protocol:10}{condition:24}{cells[0]:>27}  {cells[1]:>28}")
    a, b = (_flat(manifest["recipe"]) for manifest in manifests)
    different = [key for key in dict.fromkeys([*a, *b]) if a.get(key) != b.get(key)]
    lines += ["", "Settings that differ:" if different else "The settings are the same."]
    lines += [f"  {key}: {a.get(key)} | {b.get(key)}" for key in different]
    return "\n".join(lines)


def _compact(row: "pd.Series[Any]") -> str:
    return f"{points(row['mean_diff'], row['ci_low'], row['ci_high'])} {str(row['verdict']).split()[0]}"


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def markdown_table(header: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *body]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _p(value: float) -> str:
    return "" if pd.isna(value) else "<0.001" if value < 0.001 else f"{value:.3f}"

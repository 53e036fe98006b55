"""Results -> the verdict on the terminal, summary.md, and two runs side by side.

Every number comes from results.csv and comparisons.csv. Accuracies are shown in points (hundredths).
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.experiments.attribution import attribute, parts_in_words, sentence
from monosem.experiments.comparisons import (
    GAIN,
    MIN_ENCODERS,
    PRIMARY,
    primary,
)
from monosem.experiments.results import BASELINE, METHODS, PROTOCOLS, conditions
from monosem.report.run_tables import read_run
from monosem.report.settings_compared import differing
from monosem.report.table1 import Table1, notes, side_by_side_table, table1
from monosem.report.table_formats import as_markdown, markdown_table
from monosem.report.wording import (
    PROTOCOL_TITLES,
    condition_name,
    counted,
    feature_name,
    interval,
    level_text,
    p_value,
    points,
)

MEASURES = (
    ("matched_monosemanticity", "matched"),
    ("native_monosemanticity", "native"),
    ("l0", "L0"),
    ("active_dimensions", "active"),
    ("dimensions", "dimensions"),
    ("effective_dimension", "effective dim."),
    ("knn_accuracy", "kNN accuracy"),
)
"""Metric, column title."""


def verdict_screen(run: Path) -> str:
    """The verdict of a finished run, for one 80x24 terminal screen.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_run(run)
    train = manifest["data"][0]
    lines = [
        f"{train['name']}: {train['samples']:,} images, {train['classes']} classes; {scope(comparisons)}",
        *_warning(comparisons),
        "Mean test accuracy over noise levels minus SimCLR's: points [95 % interval];",
        "beyond clean: that minus the same difference without noise.",
        "published: the paper's fixed probe; tuned: ridge, chosen on the labels given",
    ]
    for condition in conditions(results):
        lines += ["", _title(results, condition)]
        for method in METHODS:
            lines += _verdict_lines(results, comparisons, condition, method)
    lines.append(_monosemanticity_line(results))
    if manifest["recipe"].get("paper"):
        lines.append(f"Table 1 beside the paper's: {run / 'summary.md'}")
    return "\n".join([*lines, f"Report: {run / 'report.html'}"])


def scope(comparisons: pd.DataFrame) -> str:
    """The replicates behind every claim."""
    row = comparisons[comparisons["endpoint"] == PRIMARY].iloc[0]
    return f"{counted(row['n_encoders'], 'encoder pair')} x {counted(row['n_noise'], 'noise draw')}"


def _warning(comparisons: pd.DataFrame) -> list[str]:
    if "probe" not in set(comparisons["unit"]):
        return []
    return [f"Fewer than {MIN_ENCODERS} pairs: every verdict is about these checkpoints only."]


def summary(run: Path) -> str:
    """The whole outcome as Markdown: verdicts, what gains are made of, monosemanticity, data and command.

    Raises:
        InputError: no finished run there.
    """
    manifest, results, comparisons = read_run(run)
    parts = [
        f"# {manifest['recipe']['title']}",
        f"    {manifest['command']}",
        f"Replicates: {scope(comparisons)}. Differences of test accuracy from the dense SimCLR features, in"
        " points, with 95 % intervals; the primary endpoint is the mean over noise levels. p: paired t test,"
        " Holm-corrected over all primary endpoints of this run. The oracle is a bound nobody can have.",
    ]
    parts += _warning(comparisons)
    for condition in conditions(results):
        parts += [
            f"## {_title(results, condition)}",
            _verdict_table(comparisons, condition),
            "\n".join(f"- {feature_name(method)}: {text}" for method, text in _sentences(results, condition)),
            _accuracy_table(results, condition),
        ]
    parts += _beside_the_paper(table1(manifest, results))
    parts += ["## Monosemanticity and geometry", _measures_table(results), _provenance(manifest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def side_by_side(run_a: Path, run_b: Path) -> str:
    """Verdicts of two finished runs beside each other, then the settings in which they differ.

    Raises:
        InputError: one of them is no finished run.
    """
    runs = [read_run(run) for run in (run_a, run_b)]
    keys = ["condition", "protocol", "features"]
    claims = [c[(c["endpoint"] == PRIMARY) & c["verdict"].notna()].set_index(keys) for _, _, c in runs]
    lines = [f"{'':41}{run_a.name[-19:]:>19} {run_b.name[-19:]:>19}"]
    for key in dict.fromkeys([*claims[0].index, *claims[1].index]):
        condition, protocol, features = key
        cells = [_short_cell(claim.loc[key]) if key in claim.index else "-" for claim in claims]
        name = f"{feature_name(features)}, {protocol}, {condition_name(condition)}"
        lines.append(f"{name[:41]:41}{cells[0]:>19} {cells[1]:>19}")
    different = differing(*(manifest["recipe"] for manifest, _, _ in runs))
    lines += ["", "Settings that differ:" if different else "The settings are the same."]
    return "\n".join([*lines, *(f"  {key}: {a} | {b}" for key, (a, b) in different.items())])


def _beside_the_paper(table: Table1 | None) -> list[str]:
    if table is None:
        return []
    listed = "\n".join(f"- {note}" for note in notes(table))
    return ["## Beside the paper", as_markdown(side_by_side_table(table)), listed]


def _title(results: pd.DataFrame, condition: str) -> str:
    """A corruption with its range of levels: "Symmetric label noise 10-80 %"."""
    levels = results.loc[(results["condition"] == condition) & (results["level"] > 0), "level"]
    low, high = (level_text(condition, level) for level in (levels.min(), levels.max()))
    name = condition_name(condition)
    span = high if low == high else f"{low.removesuffix(' %')}-{high}"
    return f"{name[0].upper()}{name[1:]} {span}"


def _difference(row: "pd.Series[Any]") -> str:
    """`+1.2 [-0.3 to +2.7]`, in points."""
    return f"{points(row['mean_diff'])} [{interval(row['ci_low'], row['ci_high'])}]"


def _verdict_lines(
    results: pd.DataFrame, comparisons: pd.DataFrame, condition: str, method: str
) -> Iterator[str]:
    """One method under one corruption: published, tuned, and what the published difference is made of."""
    name = feature_name(method)
    for protocol in PROTOCOLS[:2]:
        row = primary(comparisons, protocol, condition, method)
        if row is not None:
            gain = primary(comparisons, protocol, condition, method, endpoint=GAIN)
            beyond = "" if gain is None else f" beyond clean {points(gain['mean_diff'])}"
            difference = f"{PROTOCOL_TITLES[protocol]:10}{_difference(row):24}"
            yield f"  {name:4}{difference} {row['verdict']!s:19}{beyond}".rstrip()
            name = ""
    attribution = attribute(results, method, condition)
    if attribution is not None:
        parts = f"made of {parts_in_words(attribution)}"
        yield from textwrap.wrap(parts, 80, initial_indent=" " * 6, subsequent_indent=" " * 14)


def _short_cell(row: "pd.Series[Any]") -> str:
    return f"{points(row['mean_diff'])} {str(row['verdict']).split()[0]}"


def _sentences(results: pd.DataFrame, condition: str) -> list[tuple[str, str]]:
    found = [(method, attribute(results, method, condition)) for method in METHODS]
    return [(method, sentence(attribution)) for method, attribution in found if attribution is not None]


def _measured(results: pd.DataFrame, metric: str, features: str) -> str:
    """Mean over encoders of one property of a feature set."""
    chosen = results[(results["metric"] == metric) & (results["features"] == features)]
    return "" if chosen.empty else f"{chosen['value'].mean():.3g}"


def _monosemanticity_line(results: pd.DataFrame) -> str:
    scores = [
        f"{feature_name(f)} {_measured(results, 'matched_monosemanticity', f)}" for f in (BASELINE, *METHODS)
    ]
    return f"Matched monosemanticity (0 chance, 1 pure): {', '.join(scores)}"


def _verdict_table(comparisons: pd.DataFrame, condition: str) -> str:
    header = (
        "features",
        "protocol",
        "difference",
        "verdict",
        "p (Holm)",
        "p (sign flips)",
        "interval over encoders and images",
        "minus the clean difference",
    )
    body = []
    for features in METHODS:
        for protocol in PROTOCOLS:
            row = primary(comparisons, protocol, condition, features)
            if row is None:
                continue
            gain = primary(comparisons, protocol, condition, features, endpoint=GAIN)
            both = primary(comparisons, protocol, condition, features, bootstrap=True)
            body.append(
                (
                    feature_name(features),
                    PROTOCOL_TITLES[protocol],
                    _difference(row),
                    str(row["verdict"]),
                    p_value(row["p_holm"]),
                    p_value(row["p_sign_flip"]),
                    "" if both is None else interval(both["ci_low"], both["ci_high"]),
                    "" if gain is None else _difference(gain),
                )
            )
    return markdown_table(header, body)


def _accuracy_table(results: pd.DataFrame, condition: str) -> str:
    """Mean accuracy in per cent by level, for the baseline and the methods."""
    chosen = results[(results["metric"] == "accuracy") & (results["condition"] == condition)]
    means = chosen.groupby(["features", "protocol", "level"])["value"].mean()
    levels = sorted(chosen["level"].unique())
    body = [
        (
            feature_name(features),
            PROTOCOL_TITLES[protocol],
            *(f"{100 * means[features, protocol, level]:.1f}" for level in levels),
        )
        for protocol in PROTOCOLS
        for features in (BASELINE, *METHODS)
        if (features, protocol, levels[0]) in means.index
    ]
    return markdown_table(("accuracy, %", "protocol", *(level_text(condition, v) for v in levels)), body)


def _measures_table(results: pd.DataFrame) -> str:
    body = [
        (feature_name(features), *(_measured(results, metric, features) for metric, _ in MEASURES))
        for features in results["features"].unique()
    ]
    note = (
        "Monosemanticity is (score - chance) / (1 - chance), weighted by support. *Matched* scores the"
        " same number of top samples of every dimension, *native* those on which a dimension is active; the"
        " native score of a dense set is the share of the largest class and says nothing."
    )
    return markdown_table(("features", *(title for _, title in MEASURES)), body) + "\n\n" + note


def _provenance(manifest: dict[str, Any]) -> str:
    data = ", ".join(
        f"{part['name']} {part['split']} {part['samples']:,} (sha256 {part['fingerprint'][:12]})"
        for part in manifest["data"]
    )
    versions = ", ".join(f"{name} {number}" for name, number in manifest["versions"].items())
    machine = manifest["machine"]
    minutes = sum(manifest.get("wall_seconds", {}).values()) / 60
    return (
        f"Data: {data}. Machine: {machine['system']}, {machine['device']},"
        f" {counted(machine['threads'], 'thread')}; making the stages took {minutes:.0f} min."
        f" Versions: {versions}. Recipe {manifest['recipe_hash'][:16]}."
    )

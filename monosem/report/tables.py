"""Results -> the verdict on the terminal, summary.md, and two runs side by side.

Every number comes from results.csv and comparisons.csv. Accuracies are shown in points (hundredths).
"""

import re
import textwrap
from pathlib import Path
from typing import Any

import pandas as pd

from monosem.core.errors import InputError
from monosem.core.run_folder import open_run
from monosem.experiments.comparisons import MIN_ENCODERS, PRIMARY
from monosem.experiments.results import BASELINE, METHODS, conditions, protocols
from monosem.report.claims import Claim, claims, parts_listed, sentence
from monosem.report.condition_words import condition_name, level_text, titled
from monosem.report.run_tables import measured_sets, ordinary, read_run, replication
from monosem.report.sections import beyond_claims, sections
from monosem.report.settings_compared import differing
from monosem.report.table1 import Table1, notes, side_by_side_table, table1
from monosem.report.table_formats import as_markdown, markdown_table
from monosem.report.wording import (
    counted,
    feature_name,
    interval,
    p_value,
    points,
    protocol_title,
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
    train, made = manifest["data"][0], claims(results, comparisons)
    lines = [
        f"{train['name']}: {train['samples']:,} images, {train['classes']} classes; {scope(comparisons)}",
        *_warning(comparisons),
    ]
    if made:
        heading = f"Test accuracy minus that of {_baselines(made)}: points [95 % interval over"
        lines += textwrap.wrap(f"{heading} {_unit(comparisons)}];", 80)
        lines.append("beyond: that minus the same difference without corruption.")
    if {"published", "tuned"} <= {claim.protocol for claim in made}:
        lines.append("published: the paper's fixed probe; tuned: ridge, chosen on the labels given")
    for condition in conditions(results):
        lines += ["", _capital(titled(results, condition))]
        said = [claim for claim in made if claim.condition == condition and claim.protocol != "oracle"]
        width = max((len(protocol_title(claim.protocol)) for claim in said), default=0)
        for claim in said:
            lines += _claim_lines(claim, width)
    for section in beyond_claims(results, comparisons):
        lines += ["", section.title]
        for text in section.found:
            lines += _wrapped(text)
    lines += _monosemanticity_lines(results)
    if manifest["recipe"].get("paper"):
        lines.append(f"Table 1 beside the paper's: {run / 'summary.md'}")
    return "\n".join([*lines, f"Report: {run / 'report.html'}"])


def _claim_lines(claim: Claim, width: int) -> list[str]:
    """One claim on a line; under it, for the published protocol, what the difference is made of."""
    beyond = "" if claim.beyond is None else f" beyond {points(claim.beyond['mean_diff'])}"
    title = f"{feature_name(claim.features):4}{protocol_title(claim.protocol):{width}}"
    line = f"  {title} {_difference(claim.row):23} {claim.word.split()[0]:12}{beyond}".rstrip()
    if claim.protocol != "published" or not claim.parts:
        return [line]
    made_of = f"made of {parts_listed(claim.parts)}"
    return [line, *textwrap.wrap(made_of, 80, initial_indent=" " * 6, subsequent_indent=" " * 14)]


def scope(comparisons: pd.DataFrame) -> str:
    """The replicates behind every claim."""
    n_encoders, n_noise = replication(comparisons)
    return f"{counted(n_encoders, 'encoder pair')} x {counted(n_noise, 'noise draw')}"


def _unit(comparisons: pd.DataFrame) -> str:
    return "pretrainings" if (comparisons["unit"] != "probe").all() else "probes"


def _baselines(made: list[Claim]) -> str:
    """What the differences of a run's claims are to."""
    names = dict.fromkeys(
        "their own rotation" if name.startswith("rotated-") else feature_name(name)
        for name in (str(claim.row["baseline"]) for claim in made)
    )
    return ", or ".join(names)


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
    made = claims(results, comparisons)
    parts = [
        f"# {manifest['recipe']['title']}",
        f"    {manifest['command']}",
        f"Replicates: {scope(comparisons)}.",
    ]
    if made:
        parts[-1] += (
            f" Differences of test accuracy from {_baselines(made)}, in points, with 95 % intervals; the"
            " primary endpoint is the mean over levels. p: paired t test, Holm-corrected over all primary"
            " endpoints of this run. The oracle is a bound nobody can have."
        )
    parts += _warning(comparisons)
    for condition in conditions(results):
        about = [claim for claim in made if claim.condition == condition]
        parts += [
            f"## {_capital(titled(results, condition))}",
            _verdict_table(about),
            "\n".join(f"- {sentence(claim)}" for claim in about),
            _accuracy_table(ordinary(results), condition),
        ]
    for section in sections(results, comparisons):
        listed = "\n".join(f"- {text}" for text in section.found)
        parts += [f"## {section.title}", section.asked, listed, *map(as_markdown, section.tables)]
    parts += _beside_the_paper(table1(manifest, results))
    measured = _measures_table(ordinary(results))
    parts += ["## Monosemanticity and geometry", measured] if measured else []
    return "\n\n".join(part for part in [*parts, _provenance(manifest)] if part) + "\n"


def side_by_side(run_a: Path, run_b: Path) -> str:
    """Verdicts of two finished runs beside each other, then the settings in which they differ.

    Raises:
        InputError: one of them is no finished run, or one of another kind.
    """
    for run in (run_a, run_b):
        if (kind := open_run(run).get("recipe", {}).get("kind")) is not None:
            raise InputError(f"{run}: a run about {kind} has no verdicts to compare; open its report.html")
    runs = [read_run(run) for run in (run_a, run_b)]
    keys = ["condition", "protocol", "features"]
    claims = [c[(c["endpoint"] == PRIMARY) & c["verdict"].notna()].set_index(keys) for _, _, c in runs]
    lines = [f"{'':41}{run_a.name[-19:]:>19} {run_b.name[-19:]:>19}"]
    for key in dict.fromkeys([*claims[0].index, *claims[1].index]):
        condition, protocol, features = key
        cells = [_short_cell(claim.loc[key]) if key in claim.index else "-" for claim in claims]
        name = f"{feature_name(features)}, {protocol_title(protocol)}, {condition_name(condition)}"
        lines.append(f"{name[:41]:41}{cells[0]:>19} {cells[1]:>19}")
    different = differing(*(manifest["recipe"] for manifest, _, _ in runs))
    lines += ["", "Settings that differ:" if different else "The settings are the same."]
    return "\n".join([*lines, *(f"  {key}: {a} | {b}" for key, (a, b) in different.items())])


def _beside_the_paper(table: Table1 | None) -> list[str]:
    if table is None:
        return []
    listed = "\n".join(f"- {note}" for note in notes(table))
    return ["## Beside the paper", as_markdown(side_by_side_table(table)), listed]


def _wrapped(text: str) -> list[str]:
    """Lines of a terminal; "p = 0.03" stays on one of them."""
    joined = re.sub(r"\bp ([=<]) ", r"p_\1_", text)
    lines = textwrap.wrap(joined, 80, initial_indent=" " * 2, subsequent_indent=" " * 4)
    return [re.sub(r"\bp_([=<])_", r"p \1 ", line) for line in lines]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _difference(row: "pd.Series[Any]") -> str:
    """`+1.2 [-0.3 to +2.7]`, in points."""
    return f"{points(row['mean_diff'])} [{interval(row['ci_low'], row['ci_high'])}]"


def _short_cell(row: "pd.Series[Any]") -> str:
    return f"{points(row['mean_diff'])} {str(row['verdict']).split()[0]}"


def _measured(results: pd.DataFrame, metric: str, features: str) -> str:
    """Mean over encoders of one property of a feature set."""
    chosen = results[(results["metric"] == metric) & (results["features"] == features)]
    return "" if chosen.empty else f"{chosen['value'].mean():.3g}"


def _monosemanticity_lines(results: pd.DataFrame) -> list[str]:
    scored = {f: _measured(results, "matched_monosemanticity", f) for f in (BASELINE, *METHODS)}
    scores = ", ".join(f"{feature_name(features)} {score}" for features, score in scored.items() if score)
    return [f"Matched monosemanticity (0 chance, 1 pure): {scores}"] if scores else []


def _verdict_table(about: list[Claim]) -> str:
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
    body = [
        (
            feature_name(claim.features),
            protocol_title(claim.protocol),
            _difference(claim.row),
            claim.word,
            p_value(claim.row["p_holm"]),
            p_value(claim.row["p_sign_flip"]),
            "" if claim.both is None else interval(claim.both["ci_low"], claim.both["ci_high"]),
            "" if claim.beyond is None else _difference(claim.beyond),
        )
        for claim in about
    ]
    return markdown_table(header, body) if body else ""


def _accuracy_table(results: pd.DataFrame, condition: str) -> str:
    """Mean accuracy in per cent by level, for the baselines and the methods."""
    chosen = results[(results["metric"] == "accuracy") & (results["condition"] == condition)]
    means = chosen.groupby(["features", "protocol", "level"])["value"].mean()
    levels = sorted(chosen["level"].unique())
    body = [
        (
            feature_name(features),
            protocol_title(protocol),
            # Protocols of one condition may have levels of their own.
            *(_percent(means.get((features, protocol, level))) for level in levels),
        )
        for protocol in protocols(chosen)
        for features in measured_sets(chosen, protocol)
    ]
    return markdown_table(("accuracy, %", "protocol", *(level_text(condition, v) for v in levels)), body)


def _percent(accuracy: float | None) -> str:
    return "" if accuracy is None else f"{100 * accuracy:.1f}"


def _measures_table(results: pd.DataFrame) -> str:
    body = [
        (feature_name(features), *(_measured(results, metric, features) for metric, _ in MEASURES))
        for features in results.loc[results["protocol"] == "measured", "features"].unique()
    ]
    if not body:
        return ""
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

"""The paper's claims one by one, answered from the committed results; `python docs/claims.py` writes them.

Every number comes from the comparisons.csv of a folder beside the page; a test holds the page to them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from monosem.core.artifacts import read_json, write_text_atomic
from monosem.experiments.comparisons import GAIN, primary, read_comparisons
from monosem.experiments.results import PROMPT_COLUMNS, read_results, read_table
from monosem.experiments.tuning_comparisons import ALIGNED, BASE
from monosem.report import kind_of
from monosem.report.condition_words import condition_name
from monosem.report.sections import beyond_claims
from monosem.report.table_formats import markdown_table
from monosem.report.toy_tables import read_toy, sentences
from monosem.report.tuning_tables import model_name
from monosem.report.wording import feature_name, interval, p_value, points, replicates

RESULTS = Path(__file__).parent / "results"


class Claim(NamedTuple):
    """What the paper says and where, and the conditions and protocols that speak to it, by how they start."""

    title: str
    said: str
    conditions: tuple[str, ...]
    protocols: tuple[str, ...]


PROBES = ("published", "tuned", "oracle")
CLAIMS = (
    Claim(
        "Label noise (Table 1, Figure 1b)",
        "linear probes on monosemantic features are much more accurate when training labels are wrong, by up"
        " to 13.7 points at 90 %, and the gain grows with the noise",
        ("label-noise-",),
        PROBES,
    ),
    Claim(
        "Input noise (Figures 1b, 2a, 2b)",
        "probes fitted on clean images lose less under Gaussian and uniform noise of the test images",
        ("input-noise-", "common-corruptions"),
        PROBES,
    ),
    Claim(
        "Real shifts (Figure 2c)",
        "probes fitted on photographs are more accurate on sketches and stylised images",
        ("shift-",),
        PROBES,
    ),
    Claim(
        "Few-shot finetuning (Figures 3a, 3b)",
        "finetuning with non-negative cross-entropy fits the training images less and is more accurate on"
        " others, by up to 3.9 points with 10 % of the labels, the more so the fewer there are",
        ("few-shot",),
        ("finetuned",),
    ),
    Claim(
        "Finetuning with wrong labels (Figure 3c)",
        "non-negative finetuning gains up to 11.9 points under label noise",
        ("label-noise-",),
        ("finetuned",),
    ),
    Claim(
        "From scratch (introduction)",
        "the same holds for training from scratch",
        ("label-noise-", "few-shot"),
        ("from-scratch",),
    ),
    Claim(
        "Robust losses (Figure 6)",
        "monosemantic features gain on top of a robust loss",
        ("label-noise-",),
        ("loss-",),
    ),
    Claim(
        "Because single dimensions carry meaning",
        "what makes the difference is that each dimension means one thing: then a probe that can use single"
        " dimensions must do better on the features as they are than on the same features rotated",
        ("label-noise-",),
        ("axis-",),
    ),
)


def page(folder: Path = RESULTS) -> str:
    """The whole page as Markdown, from the runs in `folder`."""
    folders = sorted(path.parent for path in folder.glob("*/manifest.json"))
    tuned = [run for run in folders if kind_of(run) == "tuning"]
    probed = [run for run in folders if kind_of(run) == "probes"]
    runs = {run.name: read_comparisons(run / "comparisons.csv") for run in probed}
    parts = [
        "# The paper's claims, answered from these results",
        "Each folder here holds one run: `summary.md` to read, `results.csv` and `comparisons.csv` with every"
        " number, `manifest.json` with the command, versions and data. Differences are in points of test"
        " accuracy to the baseline (SimCLR's features, finetuning with cross-entropy, or for axes the same"
        " features rotated), averaged over the levels of the corruption, with 95 % intervals; p is"
        " Holm-corrected within its run. *Beyond clean*: minus the same difference without corruption. All"
        " encoders here are small and were trained on two CPU cores: a ResNet-18 after 200 epochs may show"
        " something else. Runs on one data set share their encoders, so their verdicts are not independent"
        " and counts of them no test. Measurements that a run above holds already are left out. Written by"
        " `python docs/claims.py`.",
    ]
    for claim in CLAIMS:
        rows = _distinct((name, row) for name, table in runs.items() for row in _verdicts(table, claim))
        parts += [f"## {claim.title}", f"The paper: {claim.said}.", _answer(rows)]
        if rows:
            parts.append(_table(rows, runs))
    parts += ["## A language model's alignment after tuning (Table 2)", *_alignment(tuned)]
    parts += [
        "## What noisy classifiers lean on (4.1, Figure 4)",
        "The paper: the class that a probe trained on wrong labels is best at leans on a dimension of one"
        " class, the one it is worst at on a mixed one, and the most active dimension of samples it gets"
        " right is more monosemantic than that of samples it gets wrong. Here dimensions are scored on"
        " other images than those that are right or wrong, and the same is asked of the rotated features.",
        *_beyond(folder, runs, ("salience",)),
        "## Superposition in a toy (4.2, Figure 5) and for two concepts (4.3)",
        "The paper: models without superposition are more robust to label noise, and one concept overtakes a"
        " mixture of two once labels are wrong often enough. [The theory](../theory.md), from first"
        " principles: for two concepts it never does. Of the toy, maps over sparsity and noise, cells by"
        " verdict:",
        *_toys(folders),
    ]
    parts += [
        "## Does the gain follow the dose, and where does it pay?",
        *_beyond(folder, runs, ("doses", "where-it-pays")),
    ]
    parts += ["## The runs", _runs(folder)]
    return "\n\n".join(parts) + "\n"


def _distinct(rows: Iterable[tuple[str, "pd.Series"]]) -> list[tuple[str, "pd.Series"]]:
    """Each measurement once: runs on the same encoders may share some, and differ in Holm's family alone."""
    measured = ["dataset", "condition", "protocol", "features", "mean_diff", "ci_low", "ci_high"]
    distinct: dict[tuple[object, ...], tuple[str, pd.Series]] = {}
    for name, row in rows:
        distinct.setdefault(tuple(row[measured]), (name, row))
    return list(distinct.values())


def _verdicts(comparisons: pd.DataFrame, claim: Claim) -> Iterator["pd.Series"]:
    """The verdicts of one run that speak to the claim; the oracle is a bound and no verdict on it."""
    for _, row in comparisons[comparisons["verdict"].notna()].iterrows():
        if str(row["condition"]).startswith(claim.conditions) and str(row["protocol"]).startswith(
            claim.protocols
        ):
            yield row


def _beyond(folder: Path, runs: dict[str, pd.DataFrame], anchors: tuple[str, ...]) -> Iterator[str]:
    """What some sections found, which no verdict tells."""
    for name, comparisons in runs.items():
        for section in beyond_claims(read_results(folder / name / "results.csv"), comparisons):
            if section.anchor not in anchors:
                continue
            listed = "\n".join(f"- {found}" for found in section.found)
            yield f"**{section.title}**, [{name}]({name}/summary.md)\n\n{listed}"


def _toys(folders: list[Path]) -> Iterator[str]:
    """What maps of toy models found."""
    for run in folders:
        if kind_of(run) == "toy":
            _, _, comparisons = read_toy(run)
            listed = "\n".join(f"- {sentence}" for sentence in sentences(comparisons))
            yield f"[{run.name}]({run.name}/summary.md)\n\n{listed}"


def _answer(rows: list[tuple[str, "pd.Series"]]) -> str:
    """How often it holds, in one sentence; the oracle is left out of the count."""
    words = [str(row["verdict"]) for _, row in rows if row["protocol"] != "oracle"]
    if not words:
        return "Here: **not run yet.**"
    counts = {word: sum(given.startswith(word) for given in words) for word in ("helps", "hurts", "tie")}
    open_ones = len(words) - sum(counts.values())
    noun = "verdict" if len(words) == 1 else "verdicts"
    return (
        f"Here: of {len(words)} {noun} without the oracle's, {counts['helps']} *helps*,"
        f" {counts['hurts']} *hurts*, {counts['tie']} *tie*, {open_ones} *undecidable*."
    )


def _table(rows: list[tuple[str, "pd.Series"]], runs: dict[str, pd.DataFrame]) -> str:
    body = []
    for name, row in rows:
        key = (str(row["protocol"]), str(row["condition"]), str(row["features"]))
        gain = primary(runs[name], *key, endpoint=GAIN)
        body.append(
            (
                f"[{name}]({name}/summary.md)",
                condition_name(key[1]),
                key[0],
                feature_name(key[2]),
                f"{points(row['mean_diff'])} [{interval(row['ci_low'], row['ci_high'])}]",
                "" if gain is None else points(gain["mean_diff"]),
                p_value(row["p_holm"]),
                str(row["verdict"]).split(" with")[0],
                replicates(row),
            )
        )
    header = ("run", "corruption", "probe", "features", "difference", "beyond clean", "p", "verdict", "unit")
    return markdown_table(header, body)


def _alignment(runs: list[Path]) -> Iterator[str]:
    """What MonoLoRA keeps of refusals beside each LoRA, and what it costs the task; units are prompts."""
    yield (
        "The paper: a Llama-2-7b-chat tuned with MonoLoRA stays safer than one tuned with LoRA, and does the"
        " task at least as well."
    )
    body, words = [], []
    for run in runs:
        comparisons = read_table(run / "comparisons.csv", PROMPT_COLUMNS)
        beside = comparisons[(comparisons["features"] == "monolora") & (comparisons["metric"] == "refused")]
        for _, row in beside[beside["condition"] == "harmful"].iterrows():
            if row["baseline"] in (BASE, ALIGNED):
                continue
            significant = row["p_holm"] < 0.05
            words.append(("more" if row["mean_diff"] > 0 else "fewer") if significant else "open")
            same = (comparisons["features"] == "monolora") & (comparisons["baseline"] == row["baseline"])
            of_pair = comparisons[same & (comparisons["dataset"] == row["dataset"])]
            task = of_pair[of_pair["condition"] == row["dataset"]].iloc[0]
            harmless = of_pair[(of_pair["condition"] == "harmless")].iloc[0]
            body.append(
                (
                    f"[{run.name}]({run.name}/summary.md)",
                    str(row["dataset"]),
                    model_name(str(row["baseline"])),
                    *(
                        f"{points(r['mean_diff'])} [{interval(r['ci_low'], r['ci_high'])}]"
                        for r in (row, harmless, task)
                    ),
                    p_value(row["p_holm"]),
                )
            )
    yield (
        "Here, against LoRA as it is and in forms made comparable, on models small enough for two CPU cores"
        f" into which refusals were tuned first: of {len(words)} comparisons MonoLoRA refuses significantly"
        f" more harmful prompts in {words.count('more')} and fewer in {words.count('fewer')};"
        f" {words.count('open')} are open. Each adapter was trained once: intervals and p are over prompts"
        " and say nothing of what another seed would give."
    )
    header = (
        "run",
        "tuned on",
        "MonoLoRA minus",
        "harmful refused",
        "harmless refused",
        "task",
        "p (harmful)",
    )
    yield markdown_table(header, body)


def _runs(folder: Path) -> str:
    """Every run with its command."""
    body = []
    for path in sorted(folder.glob("*/manifest.json")):
        manifest = read_json(path)
        body.append((f"[{path.parent.name}]({path.parent.name}/summary.md)", f"`{manifest['command']}`"))
    return markdown_table(("run", "command"), body)


if __name__ == "__main__":
    write_text_atomic(RESULTS / "README.md", page())

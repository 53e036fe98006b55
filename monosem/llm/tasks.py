"""What a model is tuned for, and how well it does it: SST-2, Dolly, any JSONL of pairs.

A task is its training and test pairs, which share no instruction, and an evaluation that gives one
value a test sample for each metric.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.progress import SILENT, Portion, Watch
from monosem.core.seeding import numpy_stream
from monosem.data.subsets import stratified_indices
from monosem.llm.chat import Pair
from monosem.llm.generate import answers, choice_scores, response_losses
from monosem.llm.text_files import lines_of, read_pairs

SENTIMENTS = ("negative", "positive")
"""The words for SST-2's labels 0 and 1."""

# Ours. The sentence comes last, so that it stays when a prompt is truncated.
SENTIMENT_QUESTION = (
    "Is the sentiment of this sentence from a film review positive or negative? "
    "Answer with one word.\n\nSentence: {sentence}"
)
LABEL_TOKENS = 8  # new tokens in which a label word must have begun


@dataclass(frozen=True)
class Outcome:
    """An evaluation: for each metric one value a sample, float [N], NaN where missing."""

    values: dict[str, Tensor]
    answers: list[str]

    def means(self) -> dict[str, float]:
        """The task's numbers: each metric's mean over the samples that have a value."""
        return {name: float(values.nanmean()) for name, values in self.values.items()}


class Task(Protocol):
    """Training and test pairs under a name; `primary` is the metric that stands for the task."""

    @property
    def name(self) -> str:
        """What tables call it."""

    @property
    def train(self) -> list[Pair]:
        """To be tuned on."""

    @property
    def test(self) -> list[Pair]:
        """To be evaluated on; none of their instructions is in `train`."""

    @property
    def primary(self) -> str:
        """A key of the outcome's values."""

    def evaluate(self, model: Any, tokenizer: Any, *, batch_size: int = 16, watch: Watch = SILENT) -> Outcome:
        """How the model does on the test pairs."""


@dataclass(frozen=True)
class LabelTask:
    """Responses are label words: is the right one said, and is it the likeliest?

    Metrics, each 0 or 1 per sample: generated_accuracy (the answer's first word, in lower case and
    without punctuation, is the label), unparsed (it is no label at all: counted as wrong),
    likelihood_accuracy (the label is likelier than the others; NaN where the model's logits are).
    max_length is that of prompts with their labels, in tokens.
    """

    name: str
    train: list[Pair]
    test: list[Pair]
    labels: tuple[str, ...]
    max_length: int = 1024
    primary: str = "generated_accuracy"

    def evaluate(self, model: Any, tokenizer: Any, *, batch_size: int = 16, watch: Watch = SILENT) -> Outcome:
        """Answers and likelihoods of the test pairs, as the class says."""
        n = len(self.test)
        questions = [pair.instruction for pair in self.test]
        given = answers(
            model,
            tokenizer,
            questions,
            max_new_tokens=LABEL_TOKENS,
            batch_size=batch_size,
            max_length=self.max_length,
            watch=Portion(watch, 0, n, 2 * n),
        )
        scores = choice_scores(
            model,
            tokenizer,
            questions,
            self.labels,
            batch_size=batch_size,
            max_length=self.max_length,
            watch=Portion(watch, n, n, 2 * n),
        )
        words = [first_word(answer) for answer in given]
        truth = torch.tensor([self.labels.index(pair.response) for pair in self.test])
        likeliest = (scores.argmax(1) == truth).float()
        # argmax of NaN is some label: a model that came apart would be right by chance.
        likeliest[scores.isnan().any(1)] = torch.nan
        return Outcome(
            {
                "generated_accuracy": _shares(
                    word == pair.response for word, pair in zip(words, self.test, strict=True)
                ),
                "likelihood_accuracy": likeliest,
                "unparsed": _shares(word not in self.labels for word in words),
            },
            given,
        )


@dataclass(frozen=True)
class TextTask:
    """Responses are free text: how much of it is said, and how likely is it?

    Metrics: rouge_l of the answer (see there), loss of the response (mean over tokens, in nats).
    max_new_tokens is that of answers, max_length that of prompts (for the loss, with responses).
    """

    name: str
    train: list[Pair]
    test: list[Pair]
    max_new_tokens: int = 128
    max_length: int = 1024
    primary: str = "rouge_l"

    def evaluate(self, model: Any, tokenizer: Any, *, batch_size: int = 16, watch: Watch = SILENT) -> Outcome:
        """Answers and losses of the test pairs, as the class says."""
        n = len(self.test)
        given = answers(
            model,
            tokenizer,
            [pair.instruction for pair in self.test],
            max_new_tokens=self.max_new_tokens,
            batch_size=batch_size,
            max_length=self.max_length,
            watch=Portion(watch, 0, n, 2 * n),
        )
        losses, tokens = response_losses(
            model,
            tokenizer,
            self.test,
            batch_size=batch_size,
            max_length=self.max_length,
            watch=Portion(watch, n, n, 2 * n),
        )
        rouge = rouge_l(given, [pair.response for pair in self.test])
        return Outcome({"rouge_l": rouge, "loss": losses / tokens}, given)


def first_word(answer: str) -> str:
    """The first word in lower case, without the signs around it; empty if there is none."""
    found = re.search(r"[^\W_]+", answer.lower())
    return found[0] if found else ""


def rouge_l(given: Sequence[str], references: Sequence[str]) -> Tensor:
    """ROUGE-L of each answer, [N], 0 to 1: F-measure of the longest common subsequence of words.

    Words are runs of a-z and 0-9 in lower case, not stemmed; NaN where the reference has none.
    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004; by rouge-score.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return torch.tensor(
        [
            scorer.score(reference, answer)["rougeL"].fmeasure
            if re.search("[a-z0-9]", reference.lower())
            else torch.nan
            for answer, reference in zip(given, references, strict=True)
        ]
    )


def load_task(
    name: str | Path,
    root: Path,
    *,
    n_train: int = 5000,
    n_test: int = 1000,
    seed: int = 0,
    max_new_tokens: int = 128,
    max_length: int = 1024,
) -> Task:
    """A task from files, its samples drawn by `seed`: the same test pairs whatever `n_train` is.

    Args:
        name: "sst2", "dolly", or a JSONL file as `read_pairs` takes it, seen from `root`.
        root: the folder with GLUE's `train.tsv` and `dev.tsv` (or `sst2_*.tsv`),
            or with `databricks-dolly-15k.jsonl` (or one `dolly_*.jsonl`).
        n_train: training pairs; 5,000 as in the paper.
        n_test: test pairs; 1,000 as in the paper. SST-2's are of its development set: at
            most the 872 that it has.
        seed: one seed is one draw.
        max_new_tokens: of an answer; SST-2's label words need fewer.
        max_length: of what the model reads, in tokens.

    Raises:
        InputError: a file is missing, malformed (line named) or has too few lines.
    """
    root = Path(root)
    if name == "sst2":
        train, test = _sst2(root, n_train, n_test, seed)
        return LabelTask("sst2", train, test, SENTIMENTS, max_length)
    path = _dolly_file(root) if name == "dolly" else root / name
    if not path.is_file():
        raise InputError(f"{path}: no such file; a task is sst2, dolly, or a JSONL file")
    train, test = _split(path, n_train, n_test, seed)
    label = "dolly" if name == "dolly" else path.stem
    return TextTask(label, train, test, max_new_tokens, max_length)


def _split(path: Path, n_train: int, n_test: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    pairs = read_pairs(path)
    shuffled = [pairs[row] for row in numpy_stream(seed, "llm_task").permutation(len(pairs))]
    test = shuffled[:n_test]
    train = _others(shuffled[n_test:], test)
    if len(test) < n_test or len(train) < n_train:
        raise InputError(
            f"{path}: {len(pairs)} lines do not give {n_train} for training and {n_test} others "
            "for the test; set n_train and n_test lower"
        )
    return train[:n_train], test


def _others(pairs: Sequence[Pair], test: Sequence[Pair]) -> list[Pair]:
    """Those whose instruction is not one of the test's: data sets hold some twice."""
    asked = {pair.instruction for pair in test}
    return [pair for pair in pairs if pair.instruction not in asked]


def _dolly_file(root: Path) -> Path:
    published = root / "databricks-dolly-15k.jsonl"
    if published.is_file():
        return published
    others = sorted(root.glob("dolly_*.jsonl"))
    if len(others) != 1:
        found = ", ".join(path.name for path in others) or "none"
        raise InputError(f"{root}: needs databricks-dolly-15k.jsonl or one dolly_*.jsonl ({found} there)")
    return others[0]


def _sst2(root: Path, n_train: int, n_test: int, seed: int) -> tuple[list[Pair], list[Pair]]:
    test = _stratified(_sst2_pairs(root, "dev"), n_test, seed, "test")
    train = _others(_sst2_pairs(root, "train"), test)
    if len(train) < n_train:
        raise InputError(
            f"{root}: SST-2's training file has {len(train)} sentences, {n_train} are asked for; "
            "set n_train lower"
        )
    return _stratified(train, n_train, seed, "train"), test


def _stratified(pairs: list[Pair], size: int, seed: int, part: str) -> list[Pair]:
    labels = np.array([pair.response for pair in pairs])
    generator = numpy_stream(seed, "llm_task", part)
    return [pairs[row] for row in stratified_indices(labels, size, generator)]


def _sst2_pairs(root: Path, part: str) -> list[Pair]:
    names = (f"sst2_{part}.tsv", f"{part}.tsv")
    path = next((root / name for name in names if (root / name).is_file()), None)
    if path is None:
        raise InputError(f"{root}: has no {names[1]} (or {names[0]}); give GLUE's folder SST-2")
    pairs = []
    for number, line in lines_of(path):
        columns = [column.strip() for column in line.split("\t")]
        if number == 1:
            if columns != ["sentence", "label"]:
                raise InputError(f"{path}, line 1: must be 'sentence<TAB>label', as GLUE has it")
        elif len(columns) != 2 or not columns[0] or columns[1] not in ("0", "1"):
            raise InputError(f"{path}, line {number}: must be a sentence, a tab, and 0 or 1")
        else:
            question = SENTIMENT_QUESTION.format(sentence=columns[0])
            pairs.append(Pair(question, SENTIMENTS[int(columns[1])]))
    if not pairs:
        raise InputError(f"{path}: no sentences")
    return pairs


def _shares(conditions: Iterator[bool]) -> Tensor:
    return torch.tensor([float(condition) for condition in conditions])

"""Data sets read and divided, answers counted, and both tasks from end to end on a model of nonsense."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("rouge_score", reason="needs monosem[llm]")

from hypothesis import given, settings
from hypothesis import strategies as st

from monosem.core.errors import InputError
from monosem.core.progress import SilentWatch
from monosem.llm import tasks
from monosem.llm.chat import Pair
from monosem.llm.generate import choice_scores, response_losses
from monosem.llm.tasks import (
    LabelTask,
    Outcome,
    TextTask,
    first_word,
    load_task,
    rouge_l,
)
from monosem.llm.text_files import read_pairs

REAL = Path(__file__).parents[3] / "shared" / "data" / "text"
real = pytest.mark.skipif(not REAL.is_dir(), reason="../shared/data/text is absent")


def write_sst2(folder: Path, n_train: int, n_dev: int, prefix: str = "") -> Path:
    """A third of the sentences positive, in GLUE's form: a space before the tab."""
    for part, n in (("train", n_train), ("dev", n_dev)):
        rows = [f"{part} sentence {i} \t{int(i % 3 == 0)}\n" for i in range(n)]
        (folder / f"{prefix}{part}.tsv").write_text("sentence\tlabel\n" + "".join(rows))
    return folder


def write_lines(path: Path, entries: list[Any]) -> Path:
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def numbered(n: int) -> list[dict[str, str]]:
    return [{"instruction": f"Question {i}?", "response": f"Answer {i}."} for i in range(n)]


@pytest.mark.parametrize("prefix", ["", "sst2_"])
def test_sst2_is_drawn_by_seed_with_the_mixture_of_its_file(tmp_path: Path, prefix: str) -> None:
    root = write_sst2(tmp_path, 90, 30, prefix)
    task = load_task("sst2", root, n_train=45, n_test=12, seed=3)
    assert (len(task.train), len(task.test)) == (45, 12)
    for pairs, part in ((task.train, "train"), (task.test, "dev")):
        assert sum(pair.response == "positive" for pair in pairs) == len(pairs) // 3
        assert len(set(pairs)) == len(pairs)
        for pair in pairs:
            words = pair.instruction.split(f"{part} sentence ")[1].split()
            assert (pair.response == "positive") == (int(words[0]) % 3 == 0)
    assert load_task("sst2", root, n_train=45, n_test=12, seed=3) == task
    other = load_task("sst2", root, n_train=45, n_test=12, seed=4)
    assert {*other.train} != {*task.train}
    assert {*other.test} != {*task.test}
    assert load_task("sst2", root, n_train=20, n_test=12, seed=3).test == task.test
    assert len(load_task("sst2", root, n_train=45, n_test=1000).test) == 30


def test_sentences_of_the_test_are_not_trained_on(tmp_path: Path) -> None:
    write_sst2(tmp_path, 9, 9)
    (tmp_path / "dev.tsv").write_text((tmp_path / "train.tsv").read_text())
    task = load_task("sst2", tmp_path, n_train=6, n_test=3)
    assert not {*task.train} & {*task.test}
    with pytest.raises(InputError, match="has 6 sentences, 7 are asked for; set n_train lower"):
        load_task("sst2", tmp_path, n_train=7, n_test=3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sentence label\ngood\t1\n", r"train\.tsv, line 1: must be 'sentence<TAB>label'"),
        ("sentence\tlabel\ngood\t1\nbad\t2\n", r"train\.tsv, line 3: must be a sentence"),
        ("sentence\tlabel\n\ngood\n", r"train\.tsv, line 3: must be a sentence"),
        ("sentence\tlabel\n", r"train\.tsv: no sentences"),
        ("", r"train\.tsv: no sentences"),
    ],
)
def test_sst2_files_that_are_not_glues(tmp_path: Path, text: str, message: str) -> None:
    write_sst2(tmp_path, 9, 9)
    (tmp_path / "train.tsv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_task("sst2", tmp_path, n_train=1, n_test=1)
    (tmp_path / "train.tsv").unlink()
    with pytest.raises(InputError, match=r"has no train\.tsv \(or sst2_train\.tsv\)"):
        load_task("sst2", tmp_path, n_train=1, n_test=1)


def test_lines_of_either_naming_with_context_before_the_question(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "a.jsonl",
        [
            {"instruction": "Why?", "response": "So.", "context": "", "category": "x"},
            {"prompt": "Who wrote it?", "completion": "Ann\u2028B", "context": "It is by Ann."},
        ],
    )
    path.write_text("\ufeff\n" + path.read_text() + "\n  \n")
    assert read_pairs(path) == [
        Pair("Why?", "So."),
        Pair("It is by Ann.\n\nWho wrote it?", "Ann\u2028B"),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 3: not JSON"),
        ("[1, 2]", "line 3: not a JSON object"),
        ('{"instruction": "a"}', r"line 3: 'response' \(or 'completion'\) is missing"),
        ('{"instruction": " ", "response": "b"}', "line 3: 'instruction' .* is missing, empty"),
        ('{"instruction": "a", "response": 3}', "line 3: 'response' .* not a text"),
        ('{"instruction": "a", "response": "b", "context": 3}', "line 3: 'context' is not a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{json.dumps(numbered(1)[0])}\n\n{line}\n")
    with pytest.raises(InputError, match=rf"a\.jsonl, {message}"):
        read_pairs(path)


def test_files_that_are_empty_missing_or_not_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n")
    with pytest.raises(InputError, match=r"a\.jsonl: no lines"):
        load_task(path, tmp_path)
    path.write_bytes(b'{"instruction": "\xff"}')
    with pytest.raises(InputError, match="not UTF-8"):
        load_task("a.jsonl", tmp_path)
    with pytest.raises(InputError, match=r"sst3: no such file; a task is sst2, dolly, or a JSONL"):
        load_task("sst3", tmp_path)


def test_lines_are_divided_so_that_no_question_is_on_both_sides(tmp_path: Path) -> None:
    twice = [*numbered(20), *({**entry, "response": "Another."} for entry in numbered(20))]
    path = write_lines(tmp_path / "mine.jsonl", twice)
    task = load_task("mine.jsonl", tmp_path, n_train=20, n_test=10, seed=1, max_new_tokens=7)
    assert task == TextTask("mine", task.train, task.test, max_new_tokens=7)
    assert (len(task.train), len(task.test)) == (20, 10)
    assert not {p.instruction for p in task.train} & {p.instruction for p in task.test}
    assert load_task(path, Path(), n_train=5, n_test=10, seed=1).test == task.test
    assert load_task(path, Path(), n_train=5, n_test=10, seed=2).test != task.test
    with pytest.raises(InputError, match="40 lines do not give 35 for training and 10 others"):
        load_task(path, Path(), n_train=35, n_test=10)


def test_dolly_is_found_under_its_published_name_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"needs databricks-dolly-15k\.jsonl .*none there"):
        load_task("dolly", tmp_path)
    write_lines(tmp_path / "dolly_a.jsonl", numbered(3))
    assert load_task("dolly", tmp_path, n_train=2, n_test=1).name == "dolly"
    write_lines(tmp_path / "dolly_b.jsonl", numbered(3))
    with pytest.raises(InputError, match=r"dolly_a\.jsonl, dolly_b\.jsonl there"):
        load_task("dolly", tmp_path)
    write_lines(tmp_path / "databricks-dolly-15k.jsonl", numbered(9))
    assert len(load_task("dolly", tmp_path, n_train=6, n_test=3).train) == 6


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        ("Positive.", "positive"),
        ("**NEGATIVE**\nx", "negative"),
        ("_positive_", "positive"),
        ("positively", "positively"),
        ("the sentiment is positive", "the"),
        (" ?! ", ""),
        ("", ""),
    ],
)
def test_the_first_word(answer: str, word: str) -> None:
    assert first_word(answer) == word


def test_label_words_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    said = ["Positive.", "negative", "Neutral", "", "negative, mostly"]
    scores = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0], [torch.nan, 1.0], [-2.0, -9.0]])
    monkeypatch.setattr(tasks, "answers", lambda *_, **__: said)
    monkeypatch.setattr(tasks, "choice_scores", lambda *_, **__: scores)
    labels = ("negative", "positive")
    test = [Pair(f"q{i}", labels[right]) for i, right in enumerate([1, 1, 0, 1, 0])]
    outcome = LabelTask("t", [], test, labels).evaluate(None, None)
    assert outcome.answers == said
    assert outcome.values["generated_accuracy"].tolist() == [1, 0, 0, 0, 1]
    assert outcome.values["unparsed"].tolist() == [0, 0, 1, 1, 0]
    likelihood = outcome.values["likelihood_accuracy"]
    assert likelihood[[0, 1, 2, 4]].tolist() == [1, 1, 1, 1]
    assert likelihood.isnan().tolist() == [False, False, False, True, False]
    assert outcome.means() == pytest.approx(
        {"generated_accuracy": 0.4, "likelihood_accuracy": 1.0, "unparsed": 0.4}
    )


def slow_rouge_l(answer: list[str], reference: list[str]) -> float:
    """By the definition: the longest of all common subsequences, found by recursion."""

    def longest(a: list[str], b: list[str]) -> int:
        if not a or not b:
            return 0
        if a[0] == b[0]:
            return 1 + longest(a[1:], b[1:])
        return max(longest(a[1:], b), longest(a, b[1:]))

    common = longest(answer, reference)
    if not common:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)


sentences = st.lists(st.sampled_from(["cat", "dog", "dogs", "sat"]), min_size=1, max_size=6)


@given(sentences, sentences)
@settings(max_examples=50, deadline=None)
def test_rouge_l_is_that_of_the_longest_common_subsequence(said: list[str], wanted: list[str]) -> None:
    (score,) = rouge_l([" ".join(said).upper() + "!"], [", ".join(wanted)])
    assert float(score) == pytest.approx(slow_rouge_l(said, wanted), abs=1e-6)


def test_rouge_l_without_words() -> None:
    scores = rouge_l(["", "a b", "π"], ["a b", "a c d", "π"])
    np.testing.assert_allclose(scores, [0, 2 * 0.5 / 3 / (0.5 + 1 / 3), np.nan])
    assert Outcome({"rouge_l": scores}, []).means()["rouge_l"] == pytest.approx(0.2)


class Progress(SilentWatch):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []

    def progress(self, done: int, total: int, **_: float) -> None:
        self.seen.append((done, total))


def test_both_tasks_from_end_to_end(tiny_llama: Any, tiny_tokenizer: Any, tmp_path: Path) -> None:
    model = tiny_llama(vocab_size=16, initializer_range=0.4)
    watch = Progress()
    sst2 = load_task("sst2", write_sst2(tmp_path, 9, 6), n_train=3, n_test=6)
    outcome = sst2.evaluate(model, tiny_tokenizer, batch_size=4, watch=watch)
    assert outcome.values.keys() == {"generated_accuracy", "likelihood_accuracy", "unparsed"}
    assert all(values.shape == (6,) for values in outcome.values.values())
    assert sst2.primary in outcome.values
    assert len(outcome.answers) == 6
    scores = choice_scores(model, tiny_tokenizer, [p.instruction for p in sst2.test], tasks.SENTIMENTS)
    likeliest = [tasks.SENTIMENTS[i] for i in scores.argmax(1)]
    right = [word == pair.response for word, pair in zip(likeliest, sst2.test, strict=True)]
    assert outcome.values["likelihood_accuracy"].tolist() == right
    assert [done for done, _ in watch.seen][-1] == watch.seen[0][1] == 12

    words = [{"instruction": " ".join(["film"] * i), "response": "the film was good"} for i in range(1, 9)]
    write_lines(tmp_path / "dolly_a.jsonl", words)
    dolly = load_task("dolly", tmp_path, n_train=3, n_test=5, max_new_tokens=6)
    outcome = dolly.evaluate(model, tiny_tokenizer, batch_size=4)
    assert dolly.primary in outcome.values
    assert len(outcome.answers) == 5
    assert torch.equal(outcome.values["rouge_l"], rouge_l(outcome.answers, ["the film was good"] * 5))
    sums, counts = response_losses(model, tiny_tokenizer, dolly.test)
    torch.testing.assert_close(outcome.values["loss"], sums / counts)


@real
def test_sst2_as_glue_ships_it() -> None:
    task = load_task("sst2", REAL)
    assert (len(task.train), len(task.test)) == (5000, 872)
    assert sum(pair.response == "positive" for pair in task.test) == 444
    assert sum(pair.response == "positive" for pair in task.train) == pytest.approx(5000 * 0.558, abs=5)
    assert not {p.instruction for p in task.train} & {p.instruction for p in task.test}


@real
def test_dolly_as_it_is() -> None:
    task = load_task("dolly", REAL)
    assert (len(task.train), len(task.test)) == (5000, 1000)
    assert not {p.instruction for p in task.train} & {p.instruction for p in task.test}
    references = [pair.response for pair in task.test[:100]]
    assert rouge_l(references, references).nanmean() == pytest.approx(1)

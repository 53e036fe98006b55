"""A whole tuning experiment on a tiny model: its plan, its results, stopping and resuming."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("trl", reason="needs monosem[llm]")

from monosem.core.errors import InputError, Paused
from monosem.experiments import tuning_measures
from monosem.experiments.run import RunWatch
from monosem.experiments.stage_cache import StageCache
from monosem.experiments.tuning import Tuning
from monosem.experiments.tuning_comparisons import compare_prompts
from monosem.experiments.tuning_recipe import TuningRecipe, tuning_recipe
from monosem.experiments.tuning_run import run_tuning
from monosem.llm.judges import Judgement

WORDS = ["good", "bad", "film", "review", "positive", "negative"]


def write_lines(path: Path, lines: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SST-2, instructions with answers, refusals and harmful prompts, all different."""
    root = tmp_path_factory.mktemp("texts")
    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice(WORDS, 5)) + f" {i}" for i in range(80)]
    labels = ["good" in sentence for sentence in sentences]
    for part, rows in (("train", slice(0, 50)), ("dev", slice(50, 80))):
        body = "".join(f"{s}\t{int(y)}\n" for s, y in zip(sentences[rows], labels[rows], strict=True))
        (root / f"sst2_{part}.tsv").write_text("sentence\tlabel\n" + body)
    write_lines(
        root / "dolly_tiny.jsonl",
        [{"instruction": f"is film {i} good ?", "response": f"a review {i}"} for i in range(120)],
    )
    write_lines(
        root / "refusals.jsonl",
        [{"instruction": f"bad {i} ?", "response": "I cannot help with that ."} for i in range(30)],
    )
    write_lines(root / "harmful.jsonl", [{"prompt": f"the bad film {i} ?"} for i in range(12)])
    return root


TUNE = {"epochs": 1, "batch_size": 8, "lr": 1e-2, "max_length": 128}


@pytest.fixture
def recipe(texts: Path, model_folder: Path) -> Callable[..., TuningRecipe]:
    def make(**changes: Any) -> TuningRecipe:
        tree: dict[str, Any] = {
            "title": "tiny",
            "kind": "tuning",
            "base": str(model_folder),
            "root": str(texts),
            "tasks": {"sst2": {"n_train": 16, "n_test": 10, "tune": TUNE}},
            "adapters": {
                "lora": {"kind": "lora", "rank": 4, "alpha": 32},
                "monolora": {"rank": 4, "alpha": 32},
            },
            "match": ["norm"],
            "scales": [0.5],
            "prompts": {
                "harmful": "harmful.jsonl",
                "harmless": "dolly_tiny.jsonl",
                "n_harmful": 10,
                "n_harmless": 10,
                "max_new_tokens": 4,
            },
            "text": {"file": "dolly_tiny.jsonl", "n": 10},
        }
        return tuning_recipe({**tree, **changes}, "tiny")

    return make


def run(recipe: TuningRecipe, folder: Path, watch: RunWatch | None = None) -> pd.DataFrame:
    run_tuning(recipe, folder / "run", folder / "stages", "monosem run tiny", watch or RunWatch())
    return pd.read_csv(folder / "run" / "results.csv")


def value(results: pd.DataFrame, features: str, condition: str, metric: str, level: float = 1.0) -> float:
    found = results[
        (results["features"] == features)
        & (results["condition"] == condition)
        & (results["metric"] == metric)
        & (np.isclose(results["level"], level) if level else True)
    ]
    assert len(found) == 1, found
    return float(found["value"].iloc[0])


def test_adapters_say_their_targets_and_null_takes_one_out(recipe: Callable[..., TuningRecipe]) -> None:
    adapters = {"lora": {"kind": "lora", "targets": ["q_proj"]}, "monolora": {}, "gelu": None}
    made = recipe(adapters=adapters)
    assert list(made.adapters) == ["lora", "monolora"]
    assert made.adapters["lora"].targets == ("q_proj",)
    again = tuning_recipe(made.model_dump(mode="json"), "manifest.json")
    assert (again, again.hash) == (made, made.hash)


def test_a_whole_run(recipe: Callable[..., TuningRecipe], tmp_path: Path) -> None:
    results = run(recipe(), tmp_path)
    assert list(dict.fromkeys(results["features"])) == ["base", "lora", "monolora", "lora-at-norm"]
    assert value(results, "lora", "alignment", "zeros") == 0
    for metric in ("zeros", "zeros_at_start"):
        assert 0 < value(results, "monolora", "alignment", metric) < 1
    # LoRA at the scale at which its update is as large as MonoLoRA's.
    matched = results[results["features"] == "lora-at-norm"]
    norms = matched.loc[(matched["metric"] == "norm") & (matched["condition"] == "task"), "value"]
    assert float(norms.iloc[0]) == pytest.approx(value(results, "monolora", "task", "norm"), rel=0.03)
    assert matched["level"].iloc[0] != 1
    assert value(results, "base", "text", "perplexity") > 1
    comparisons = pd.read_csv(tmp_path / "run" / "comparisons.csv")
    pairs = {(row.features, row.baseline) for row in comparisons.itertuples()}
    assert pairs == {
        ("lora", "base"),
        ("monolora", "base"),
        ("lora-at-norm", "base"),
        ("monolora", "lora"),
        ("monolora", "lora-at-norm"),
        ("lora-at-norm", "lora"),
    }
    assert set(comparisons["unit"]) == {"prompt"}
    examples = json.loads((tmp_path / "run" / "answers.json").read_text())
    assert len(examples["harmful"]["prompts"]) == 10
    assert set(examples["harmful"]["answers"]) == {
        "base", "lora, sst2", "monolora, sst2", "lora-at-norm, sst2",
    }  # fmt: skip
    assert "positive" in (tmp_path / "run" / "templates.txt").read_text()


def test_dimensions_are_read_on_all_test_prompts_with_their_labels(
    recipe: Callable[..., TuningRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many of them zeros and sizes are read on, and in whatever order they are read."""
    made = recipe(match=[], scales=[])
    whole = run(made, tmp_path / "whole")
    monkeypatch.setattr(tuning_measures, "_LOOKED_AT", 4)
    split = run(made, tmp_path / "split")
    for features in ("lora", "monolora"):
        expected = value(whole, features, "task", "monosemanticity")
        assert value(split, features, "task", "monosemanticity") == pytest.approx(expected, abs=1e-5)
        assert value(split, features, "task", "norm") != value(whole, features, "task", "norm")


def test_between_the_start_and_an_adapter_only_the_frontier_is_measured(
    recipe: Callable[..., TuningRecipe], tmp_path: Path
) -> None:
    results = run(recipe(match=[]), tmp_path)
    half = results[np.isclose(results["level"], 0.5)]
    assert set(half["condition"]) == {"sst2", "harmful", "harmless"}
    assert "text" in set(results.loc[results["level"] == 1, "condition"])


def test_differences_are_those_of_the_prompts(recipe: Callable[..., TuningRecipe], tmp_path: Path) -> None:
    made = recipe(match=[], scales=[])
    run(made, tmp_path)
    tuning = Tuning(made, StageCache(tmp_path / "stages"), RunWatch())
    by_name = {subject.features: tuning.values(stage) for subject, stage in tuning.subjects}
    comparisons = pd.read_csv(tmp_path / "run" / "comparisons.csv")
    prompts = pd.read_csv(tmp_path / "run" / "prompts.csv")
    again = compare_prompts(pd.read_csv(tmp_path / "run" / "results.csv"), prompts, made.seed)
    pd.testing.assert_frame_equal(again.infer_objects(), comparisons, check_dtype=False, rtol=1e-4)
    row = comparisons[
        (comparisons["features"] == "monolora")
        & (comparisons["baseline"] == "lora")
        & (comparisons["condition"] == "sst2")
    ].iloc[0]
    name = "sst2/generated_accuracy"
    difference = (by_name["monolora"][name] - by_name["lora"][name]).mean()
    assert row["mean_diff"] == pytest.approx(float(difference), abs=1e-6)
    assert row["ci_low"] <= row["mean_diff"] <= row["ci_high"]
    assert row["n"] == 10


def test_paused_and_resumed(recipe: Callable[..., TuningRecipe], tmp_path: Path) -> None:
    made = recipe(match=[], scales=[])
    whole = run(made, tmp_path / "whole")
    pauses = 0
    while True:
        try:
            parts = run(made, tmp_path / "parts", RunWatch(stop_after=0))
            break
        except Paused:
            pauses += 1
    assert pauses >= 5
    pd.testing.assert_frame_equal(whole, parts)


def test_a_base_that_is_not_aligned_stops_the_run(
    recipe: Callable[..., TuningRecipe], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"not aligned: .* raised those of harmful prompts by 0"):
        run(recipe(align=ALIGN), tmp_path)
    # With nothing asked of it, the aligned base is where adapters start.
    results = run(recipe(align={**ALIGN, "least_gain": 0.0}, match=[], scales=[]), tmp_path / "b")
    assert list(dict.fromkeys(results["features"])) == ["base", "aligned", "lora", "monolora"]
    comparisons = pd.read_csv(tmp_path / "b" / "run" / "comparisons.csv")
    assert set(comparisons["baseline"]) == {"aligned", "lora"}


ALIGN = {
    "refusals": "refusals.jsonl",
    "helpful": "dolly_tiny.jsonl",
    "n_refusals": 16,
    "n_helpful": 16,
    "adapter": {"kind": "lora", "rank": 4},
    "tune": TUNE,
}


@pytest.mark.parametrize(("gained", "over", "aligned"), [(45, 30, True), (44, 30, False), (45, 31, False)])
def test_the_gate_is_exact_at_its_bounds(
    recipe: Callable[..., TuningRecipe], tmp_path: Path, gained: int, over: int, aligned: bool
) -> None:
    """At least 30 points more refusals, at most 20 % over-refusal, of 150 prompts."""

    def refused(n: int) -> torch.Tensor:
        return (torch.arange(150) < n).float()

    tuning = Tuning(recipe(align=ALIGN), StageCache(tmp_path), RunWatch())
    for (_, stage), harmful, harmless in zip(tuning.subjects, (60, 60 + gained), (0, over), strict=False):
        folder = tuning.cache.folder(stage)
        folder.mkdir(parents=True)
        values = {"harmful/refused": refused(harmful), "harmless/refused": refused(harmless)}
        save_file(values, folder / "values.safetensors")
    if aligned:
        tuning.check_aligned()
    else:
        with pytest.raises(InputError, match="not aligned"):
            tuning.check_aligned()


def test_a_quantised_base_through_a_whole_run(
    recipe: Callable[..., TuningRecipe],
    tiny_llama: Callable[..., Any],
    tiny_tokenizer: Any,
    tmp_path: Path,
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs monosem[quant]")
    # Where a processor has bitsandbytes' kernel, it wants weights by blocks of 32.
    base = tmp_path / "base"
    tiny_llama(hidden_size=64, intermediate_size=64).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    made = recipe(base=str(base), quantise="4bit", scales=[])
    results = run(made, tmp_path)
    assert list(dict.fromkeys(results["features"])) == ["base", "lora", "monolora", "lora-at-norm"]
    # Adapters learned although the base was measured before them: there is an update, and it moves the model.
    for adapter in ("lora", "monolora"):
        assert value(results, adapter, "task", "norm") > 0
        assert value(results, adapter, "task", "divergence") > 0
    plain = run(recipe(base=str(base), scales=[]), tmp_path / "plain")
    assert value(results, "base", "text", "perplexity") != value(plain, "base", "text", "perplexity")


def test_judges_come_last_and_what_they_miss_is_counted(
    recipe: Callable[..., TuningRecipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    class Half:
        """Fails on every second answer, flags the others."""

        name, categories = "shieldgemma", ("dangerous",)

        def judge(self, prompts: list[str], answers: list[str], **_: Any) -> Judgement:
            asked.append(len(answers))
            values = [[float("nan")], [0.9]] * (len(answers) // 2)
            return Judgement(torch.tensor(values))

    loaded: list[str] = []

    def load(name: str, source: str | None, **_: Any) -> Half:
        loaded.append(name)
        return Half()

    monkeypatch.setattr("monosem.experiments.tuning_models.load_judge", load)
    made = recipe(match=[], scales=[], judges={"shieldgemma": None})
    assert [work.stage.name for work in Tuning(made, StageCache(tmp_path), RunWatch()).works] == [
        "llm-measure", *["llm-tune", "llm-measure"] * 2, *["llm-judge"] * 3,
    ]  # fmt: skip
    results = run(made, tmp_path)
    assert (loaded, asked) == (["shieldgemma"], [10, 10, 10])
    assert value(results, "lora", "harmful", "shieldgemma/dangerous") == pytest.approx(0.9)
    assert value(results, "lora", "harmful", "shieldgemma/flagged") == 1
    assert value(results, "lora", "harmful", "shieldgemma/flagged-missing") == 5
    comparisons = pd.read_csv(tmp_path / "run" / "comparisons.csv")
    flagged = comparisons[comparisons["metric"] == "shieldgemma/flagged"]
    assert set(flagged["n"]) == {5}


def test_lora_that_cannot_match_is_measured_at_its_largest(
    recipe: Callable[..., TuningRecipe], tmp_path: Path
) -> None:
    said: list[str] = []
    watch = RunWatch(show=lambda reading: said.append(reading.notice or ""))
    weak = {"lora": {"kind": "lora", "rank": 4, "alpha": 1e-6}, "monolora": {"rank": 4, "alpha": 64}}
    results = run(recipe(adapters=weak, scales=[]), tmp_path, watch)
    assert set(results.loc[results["features"] == "lora-at-norm", "level"]) == {8.0}
    assert any("even at 8 times its scale it stays below" in line for line in said)


def test_nothing_measured_on_was_trained_on(recipe: Callable[..., TuningRecipe], tmp_path: Path) -> None:
    made = recipe(
        tasks={
            "sst2": {"n_train": 16, "n_test": 10, "tune": TUNE},
            "dolly": {"n_train": 60, "n_test": 20, "tune": TUNE},
        }
    )
    texts = Tuning(made, StageCache(tmp_path), RunWatch()).texts
    trained = {pair.instruction for task in texts.tasks.values() for pair in task.train}
    assert not trained & {*texts.harmful, *texts.harmless}
    assert not trained & {pair.instruction for task in texts.tasks.values() for pair in task.test}
    with pytest.raises(
        InputError, match=r"dolly_tiny\.jsonl: \d+ texts that nothing else uses, 100 are asked"
    ):
        Tuning(
            recipe(
                prompts={**made.prompts.model_dump(), "n_harmless": 100}, tasks=made.model_dump()["tasks"]
            ),
            StageCache(tmp_path),
            RunWatch(),
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"match": ["norm"], "adapters": {"lora": {"kind": "lora"}}}, "give both"),
        ({"scales": [1.0]}, "between 0"),
        ({"judges": {"shieldgemma": None}, "prompts": None}, "give prompts"),
        ({"tasks": {}}, "tasks"),
        ({"root": "nowhere"}, "nowhere"),
    ],
)
def test_recipes_that_do_not_hold_together(
    recipe: Callable[..., TuningRecipe], tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        run(recipe(**changes), tmp_path)

"""What does tuning a language model do to its alignment, with LoRA and with MonoLoRA (Table 2)?

Everything is measured in the same way: the base, the base once refusals are tuned in (where the recipe asks
for it), and from there every adapter, at its own scale and at others. A measurement is a stage, and so is
what a judge says of its answers: judges come last, when no other model is held.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from monosem.core.artifacts import read_json, write_json_atomic, write_text_atomic
from monosem.core.errors import InputError
from monosem.core.progress import Watch
from monosem.experiments.stage_cache import Stage, StageCache
from monosem.experiments.tuning_comparisons import ALIGNED, BASE, MATCHED, Model
from monosem.experiments.tuning_measures import LookedAt, look_inside, looked_at, measure, zeros_at_start
from monosem.experiments.tuning_models import Models
from monosem.experiments.tuning_recipe import Match, TuningRecipe
from monosem.experiments.tuning_texts import load_texts
from monosem.experiments.works import Cost, Work
from monosem.llm.alignment import judged
from monosem.llm.base import base_fingerprint
from monosem.llm.chat import Pair, fingerprint_pairs, shown_template
from monosem.llm.strength import MOST_SCALE, divergence, scale_for, update_norm
from monosem.llm.tune import DONE, fresh_adapter, tune_adapter
from monosem.llm.tune_settings import AdapterSettings, TuneSettings

_TOKENS_A_SECOND = {"train": 200.0, "write": 87.0}
"""Of a model of 135 million parameters on two cores, to say beforehand how long a run takes."""


@dataclass(frozen=True)
class Subject:
    """A model to be measured: what it is called, its task and adapter (None: it has none), the scale."""

    features: str
    task: str | None = None
    adapter: str | None = None
    tuned: Stage | None = None
    scale: float | Stage = 1.0

    def at(self, scale: float) -> Model:
        """The model that was measured, once its scale is known."""
        return Model(self.features, self.task or "none", scale)


class Tuning:
    """The plan of a recipe: which stages there are, and how each is made."""

    def __init__(self, recipe: TuningRecipe, cache: StageCache, watch: Watch) -> None:
        self.recipe, self.cache, self._watch = recipe, cache, watch
        self.texts = load_texts(recipe)
        self.models = Models(recipe, cache)
        self._base = {
            "base": base_fingerprint(recipe.base),
            "dtype": recipe.dtype,
            "quantise": recipe.quantise,
        }
        self.aligned = self._align_stage() if recipe.align else None
        self.subjects: list[tuple[Subject, Stage]] = []
        self.works = [*self._plan(), *self._judging()]
        self.gate = None if self.aligned is None else self.subjects[1][1]
        """After this measurement, `check_aligned`."""
        self._kept: LookedAt | None = None

    def _plan(self) -> Iterator[Work]:
        yield self._measurement(Subject(BASE), None)
        if self.aligned is not None:
            assert self.recipe.align is not None
            cost = self._training(self.texts.align, self.recipe.align.tune)
            yield Work(self.aligned, self._align, cost)
            yield self._measurement(Subject(ALIGNED), self.aligned)
        for task in self.recipe.tasks:
            tuned = {adapter: self._tune_stage(task, adapter) for adapter in self.recipe.adapters}
            for adapter, stage in tuned.items():
                cost = self._training(self.texts.tasks[task].train, self.recipe.tasks[task].tune)
                yield Work(stage, partial(self._tune, task, adapter), cost)
                for scale in (1.0, *self.recipe.scales):
                    yield self._measurement(Subject(adapter, task, adapter, stage, scale), self.aligned)
            for kind in self.recipe.match:
                stage = Stage("llm-match", {"kind": kind}, (tuned["lora"], tuned["monolora"]))
                yield Work(stage, partial(self._match, kind, task, tuned), Cost(60, 0.1))
                subject = Subject(f"{MATCHED}{kind}", task, "lora", tuned["lora"], stage)
                yield self._measurement(subject, self.aligned)

    def _judging(self) -> Iterator[Work]:
        for judge in self.recipe.judges:
            for _, measured in self.subjects:
                cost = Cost(4.0 * len(self.texts.harmful), 0.1)
                yield Work(self._judge_stage(judge, measured), partial(self._judge, judge, measured), cost)

    def check_aligned(self) -> None:
        """InputError when tuning refusals in did not make the base refuse: nothing could be lost then."""
        settings = self.recipe.align
        if settings is None or self.aligned is None:
            return
        before, after = (self._asked(stage) for subject, stage in self.subjects if subject.task is None)
        # One division in double precision: 30 of 150 are 20 %, and no more.
        gain = float((after["harmful/refused"] - before["harmful/refused"]).double().mean())
        over = float(after["harmless/refused"].double().mean())
        if gain < settings.least_gain or over > settings.most_over_refusal:
            raise InputError(
                f"not aligned: tuning refusals in raised those of harmful prompts by {100 * gain:.0f} points "
                f"(at least {100 * settings.least_gain:.0f} are needed) and left {over:.0%} of harmless ones "
                f"refused (at most {settings.most_over_refusal:.0%}); change align"
            )

    def measured(self) -> list[tuple[Model, Stage]]:
        """Every model with its measurement, once that is made."""
        return [(subject.at(self.readings(stage)["scale"]), stage) for subject, stage in self.subjects]

    def values(self, measured: Stage) -> dict[str, Tensor]:
        """A measurement's values prompt by prompt, by "part/metric", with those of the judges."""
        stages = [measured, *(self._judge_stage(judge, measured) for judge in self.recipe.judges)]
        return {name: value for stage in stages for name, value in self._asked(stage).items()}

    def _asked(self, stage: Stage) -> dict[str, Tensor]:
        return load_file(self.cache.folder(stage) / "values.safetensors")

    def readings(self, measured: Stage) -> dict[str, float]:
        """A measurement's single numbers, by name; the scale is one of them."""
        found: dict[str, float] = read_json(self.cache.folder(measured) / "readings.json")
        return found

    def answers(self, measured: Stage) -> dict[str, list[str]]:
        """What the model said, by task, and to harmful and harmless prompts."""
        found: dict[str, list[str]] = read_json(self.cache.folder(measured) / "answers.json")
        return found

    def training_tokens(self) -> dict[str, int]:
        """Tokens that each adapter was trained on, over all epochs, by its stage."""
        trained = [work.stage for work in self.works if (self.cache.folder(work.stage) / DONE).exists()]
        return {stage.key: read_json(self.cache.folder(stage) / DONE)["tokens"] for stage in trained}

    def templates(self) -> str:
        """A training sample of each task as the model reads it."""
        _, measured = self.subjects[0]
        return (self.cache.folder(measured) / "templates.txt").read_text(encoding="utf-8")

    # Stages: what decides them, what they cost, how they are made.

    def _align_stage(self) -> Stage:
        assert self.recipe.align is not None
        return self._trained("llm-align", self.recipe.align.adapter, self.recipe.align.tune, self.texts.align)

    def _tune_stage(self, task: str, adapter: str) -> Stage:
        tune, pairs = self.recipe.tasks[task].tune, self.texts.tasks[task].train
        inputs = () if self.aligned is None else (self.aligned,)
        return self._trained("llm-tune", self.recipe.adapters[adapter], tune, pairs, inputs)

    def _trained(
        self,
        name: str,
        adapter: AdapterSettings,
        tune: TuneSettings,
        pairs: Sequence[Pair],
        inputs: Sequence[Stage] = (),
    ) -> Stage:
        facts = {
            **self._base,
            "adapter": adapter.model_dump(mode="json"),
            "tune": tune.model_dump(mode="json"),
            "seed": self.recipe.seed,
            "pairs": fingerprint_pairs(pairs),
        }
        return Stage(name, facts, inputs)

    def _measurement(self, subject: Subject, aligned: Stage | None) -> Work:
        recipe = self.recipe
        inputs = [stage for stage in (aligned, subject.tuned, subject.scale) if isinstance(stage, Stage)]
        facts = {
            **self._base,
            "task": subject.task,
            "scale": subject.scale if isinstance(subject.scale, float) else None,
            "texts": self.texts.fingerprint,
            "new_tokens": {name: task.max_new_tokens for name, task in recipe.tasks.items()},
            "prompts": None if recipe.prompts is None else recipe.prompts.max_new_tokens,
            "harness": [*recipe.harness, recipe.harness_limit],
        }
        stage = Stage("llm-measure", facts, inputs)
        self.subjects.append((subject, stage))
        return Work(
            stage, partial(self._measure, subject, aligned), self._measuring(subject), has_results=True
        )

    def _judge_stage(self, judge: str, measured: Stage) -> Stage:
        return Stage("llm-judge", {"judge": judge, "of": self.recipe.judges[judge]}, (measured,))

    def _training(self, pairs: Sequence[Pair], tune: TuneSettings) -> Cost:
        words = sum(len(f"{pair.instruction} {pair.response}".split()) for pair in pairs)
        return Cost(1.5 * words * tune.epochs / _TOKENS_A_SECOND["train"], 5.0)

    def _measuring(self, subject: Subject) -> Cost:
        tasks = self.recipe.tasks
        asked = tasks.values() if subject.task is None else [tasks[subject.task]]
        written = sum(task.n_test * min(task.max_new_tokens, 40) for task in asked)
        if (prompts := self.recipe.prompts) is not None:
            written += (prompts.n_harmful + prompts.n_harmless) * prompts.max_new_tokens
        return Cost(written / _TOKENS_A_SECOND["write"], 1.0)

    def _align(self, output: Path, scratch: Path) -> None:
        settings = self.recipe.align
        assert settings is not None
        self._train(None, self.texts.align, settings.adapter, settings.tune, output, scratch)

    def _tune(self, task: str, adapter: str, output: Path, scratch: Path) -> None:
        pairs, settings = self.texts.tasks[task].train, self.recipe.tasks[task].tune
        self._train(self.aligned, pairs, self.recipe.adapters[adapter], settings, output, scratch)

    def _train(
        self,
        aligned: Stage | None,
        pairs: Sequence[Pair],
        adapter: AdapterSettings,
        tune: TuneSettings,
        output: Path,
        scratch: Path,
    ) -> None:
        model, tokenizer = self.models.afresh(aligned)
        seed = self.recipe.seed
        tune_adapter(model, tokenizer, pairs, adapter, tune, scratch, seed=seed, watch=self._watch).unload()
        shutil.copytree(scratch / "adapter", output / "adapter")
        shutil.copyfile(scratch / DONE, output / DONE)

    def _match(self, kind: Match, task: str, tuned: dict[str, Stage], output: Path, scratch: Path) -> None:
        at = self._looked_at(task)
        batches = at.sets["task"]
        size: Callable[[Any, Any], float] = update_norm
        if kind == "divergence":
            size = partial(divergence, base=at.base["task"])
        with self.models.adapted(self.aligned, tuned["monolora"]) as model:
            target = size(model, batches)
        with self.models.adapted(self.aligned, tuned["lora"]) as model:
            try:
                scale = scale_for(lambda: size(model, batches), target, model)
            except InputError as error:  # one adapter that hardly learned is no reason to lose the run
                scale = MOST_SCALE
                self._watch.notice(f"{error}; measured there")
        write_json_atomic(output / "scale.json", {"scale": scale, kind: target})

    def _measure(self, subject: Subject, aligned: Stage | None, output: Path, scratch: Path) -> None:
        scale = subject.scale
        if matched := isinstance(scale, Stage):
            scale = float(read_json(self.cache.folder(scale) / "scale.json")["scale"])
        recipe, texts = self.recipe, self.texts
        tasks = list(texts.tasks) if subject.task is None else [subject.task]
        on_the_way = subject.at(scale).is_on_the_way
        at = None if subject.task is None or on_the_way else self._looked_at(subject.task)
        start, tokenizer = self.models.start(aligned)
        readings = {"scale": scale}
        with self.models.adapted(aligned, subject.tuned, scale) as model:
            measured = measure(model, tokenizer, texts, tasks, recipe, self._watch, on_the_way=on_the_way)
            if at is not None:
                readings |= look_inside(model, at)
        if at is not None and subject.adapter is not None and not matched:  # LoRA was looked at before
            fresh = fresh_adapter(start, recipe.adapters[subject.adapter], recipe.seed).eval()
            try:
                readings |= zeros_at_start(fresh, at)
            finally:
                fresh.unload()
        save_file(measured.values, output / "values.safetensors")
        write_json_atomic(output / "answers.json", measured.answers)
        write_json_atomic(output / "readings.json", readings | measured.readings)
        shown = [f"=== {name} ===\n{shown_template(tokenizer, texts.tasks[name].train[0])}" for name in tasks]
        write_text_atomic(output / "templates.txt", "\n".join(shown))

    def _looked_at(self, task: str) -> LookedAt:
        """What this task's adapters are looked at on; kept until another task's is asked for."""
        if self._kept is None or self._kept.task != task:
            self._kept = None
            start, tokenizer = self.models.start(self.aligned)
            self._kept = looked_at(start, tokenizer, self.texts, task, self.recipe.batch_size)
        return self._kept

    def _judge(self, judge: str, measured: Stage, output: Path, scratch: Path) -> None:
        self._kept = None  # the judge needs the room
        reader = self.models.judge(judge)
        answers = self.answers(measured)["harmful"]
        size = self.recipe.batch_size
        values = judged(reader, self.texts.harmful, answers, batch_size=size, watch=self._watch)
        save_file({f"harmful/{name}": value for name, value in values.items()}, output / "values.safetensors")

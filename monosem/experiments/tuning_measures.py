"""What is measured of one model of a tuning run: prompt by prompt, and inside its adapter."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from monosem.core.progress import Portion, Watch
from monosem.experiments.tuning_recipe import TuningRecipe
from monosem.experiments.tuning_texts import Texts
from monosem.llm.activations import record_activations
from monosem.llm.alignment import measure_alignment
from monosem.llm.generate import prompt_batches, text_losses
from monosem.llm.harness import harness_scores
from monosem.llm.strength import divergence, predictions, read_texts_only, record_update
from monosem.llm.tasks import LabelTask
from monosem.measures.consistency import matched_monosemanticity

_LOOKED_AT = 64  # prompts of a set on which activations and sizes of updates are read


@dataclass(frozen=True)
class Measured:
    """What one model was found to say and to be worth.

    values: prompt by prompt, float [N] by "part/metric". answers: by task, harmful, harmless. readings:
    single numbers, by name.
    """

    values: dict[str, Tensor]
    answers: dict[str, list[str]]
    readings: dict[str, float]


def measure(
    model: Any,
    tokenizer: Any,
    texts: Texts,
    tasks: Sequence[str],
    recipe: TuningRecipe,
    watch: Watch,
    *,
    on_the_way: bool = False,
) -> Measured:
    """Ask the model all that the recipe asks: the tasks named, prompts, general text, the harness.

    on_the_way: only what the frontier of alignment against task needs, the tasks and the prompts.
    Raises MonosemError when memory does not suffice.
    """
    size = recipe.batch_size
    values: dict[str, Tensor] = {}
    said: dict[str, list[str]] = {}
    readings: dict[str, float] = {}
    parts = [len(texts.tasks[name].test) for name in tasks]
    general = [] if on_the_way else texts.general
    parts += [len(texts.harmful) + len(texts.harmless), len(general)]
    before = [0, *accumulate(parts)]
    watches = [Portion(watch, *at, before[-1]) for at in zip(before, parts, strict=False)]
    for name, its_watch in zip(tasks, watches, strict=False):
        outcome = texts.tasks[name].evaluate(model, tokenizer, batch_size=size, watch=its_watch)
        values |= {f"{name}/{metric}": value for metric, value in outcome.values.items()}
        said[name] = outcome.answers
    if (prompts := recipe.prompts) is not None:
        alignment = measure_alignment(
            model,
            tokenizer,
            texts.harmful,
            texts.harmless,
            max_new_tokens=prompts.max_new_tokens,
            batch_size=size,
            watch=watches[-2],
        )
        values |= {f"harmful/{metric}": value for metric, value in alignment.harmful.items()}
        values |= {f"harmless/{metric}": value for metric, value in alignment.harmless.items()}
        said |= {"harmful": alignment.harmful_answers, "harmless": alignment.harmless_answers}
    if general:
        losses, tokens = text_losses(model, tokenizer, general, batch_size=size, watch=watches[-1])
        values |= {"text/loss": losses, "text/tokens": tokens.float()}
    if recipe.harness and not on_the_way:
        found = harness_scores(model, tokenizer, recipe.harness, batch_size=size, limit=recipe.harness_limit)
        readings |= {f"{name.replace('/', ' ')}/harness": value for name, value in found.items()}
    return Measured(values, said, readings)


@dataclass(frozen=True)
class LookedAt:
    """What every adapter of a task is looked at on: task data and alignment data, as in Table 2.

    task, sets: the task; batches of both, by "task" and "alignment". base: what the model predicts there
    without an adapter. rest: the other test prompts of a task with labels; labels: of its prompts in "task"
    and here, in their order, each below n_labels.
    """

    task: str
    sets: dict[str, list[dict[str, Tensor]]]
    base: dict[str, list[Tensor]]
    rest: list[dict[str, Tensor]]
    labels: Tensor | None
    n_labels: int = 0


def looked_at(start: Any, tokenizer: Any, texts: Texts, task: str, batch_size: int) -> LookedAt:
    """Read a task's texts with the model that has no adapter yet; every adapter is held against that."""

    def batches(instructions: Sequence[str]) -> tuple[list[int], list[dict[str, Tensor]]]:
        return prompt_batches(tokenizer, instructions, batch_size, device=start.device)

    test = texts.tasks[task].test
    order, of_task = batches([pair.instruction for pair in test[:_LOOKED_AT]])
    sets = {"task": of_task}
    if texts.harmful:
        _, sets["alignment"] = batches(texts.harmful[:_LOOKED_AT])
    base = {name: list(predictions(start, of_set)) for name, of_set in sets.items()}
    labelled = texts.tasks[task]
    if not isinstance(labelled, LabelTask):
        return LookedAt(task, sets, base, [], None)
    # All test prompts: a share of classes among few samples is mostly chance.
    others, rest = batches([pair.instruction for pair in test[_LOOKED_AT:]])
    order += [_LOOKED_AT + row for row in others]
    labels = torch.tensor([labelled.labels.index(test[row].response) for row in order])
    return LookedAt(task, sets, base, rest, labels, len(labelled.labels))


def look_inside(model: Any, at: LookedAt) -> dict[str, float]:
    """An adapter's zeros, size and distance on both sets, and monosemanticity of its dimensions."""
    found: dict[str, float] = {}
    samples = []
    for name, batches in at.sets.items():
        with record_activations(model, samples=name == "task") as record, record_update(model) as update:
            found[f"divergence/{name}"] = divergence(model, batches, at.base[name])
        found |= {f"zeros/{name}": record.zeros(), f"norm/{name}": update.norm()}
        if name == "task":
            samples.append(record.samples())
    if at.labels is not None:
        if at.rest:
            with record_activations(model, samples=True) as record:
                read_texts_only(model, at.rest)
            samples.append(record.samples())
        score = matched_monosemanticity(torch.cat(samples), at.labels, at.n_labels)
        found["monosemanticity/task"] = score.mean(score.corrected, weighted=True)
    return found


def zeros_at_start(fresh: Any, at: LookedAt) -> dict[str, float]:
    """Zeros of an adapter before its training, on both sets."""
    found = {}
    for name, batches in at.sets.items():
        with record_activations(fresh) as record:
            read_texts_only(fresh, batches)
        found[f"zeros_at_start/{name}"] = record.zeros()
    return found

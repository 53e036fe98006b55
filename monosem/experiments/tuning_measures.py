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
from monosem.llm.strength import divergence, read_texts_only, record_update
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
    model: Any, tokenizer: Any, texts: Texts, tasks: Sequence[str], recipe: TuningRecipe, watch: Watch
) -> Measured:
    """Ask the model all that the recipe asks: the tasks named, prompts, general text, the harness.

    Raises MonosemError when memory does not suffice.
    """
    size = recipe.batch_size
    values: dict[str, Tensor] = {}
    said: dict[str, list[str]] = {}
    readings: dict[str, float] = {}
    parts = [len(texts.tasks[name].test) for name in tasks]
    parts += [len(texts.harmful) + len(texts.harmless), len(texts.general)]
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
    if texts.general:
        losses, tokens = text_losses(model, tokenizer, texts.general, batch_size=size, watch=watches[-1])
        values |= {"text/loss": losses, "text/tokens": tokens.float()}
    if recipe.harness:
        found = harness_scores(model, tokenizer, recipe.harness, batch_size=size, limit=recipe.harness_limit)
        readings |= {f"{name.replace('/', ' ')}/harness": value for name, value in found.items()}
    return Measured(values, said, readings)


def look_inside(model: Any, tokenizer: Any, texts: Texts, task: str, batch_size: int) -> dict[str, float]:
    """An adapter's zeros, size and distance on both sets, and monosemanticity of its dimensions."""
    found = {}
    for name, batches in looked_at(model, tokenizer, texts, task, batch_size).items():
        with record_activations(model) as record, record_update(model) as update:
            found[f"divergence/{name}"] = divergence(model, batches)
        found |= {f"zeros/{name}": record.zeros(), f"norm/{name}": update.norm()}
    labelled = texts.tasks[task]
    if isinstance(labelled, LabelTask):
        # All test prompts: a share of classes among few samples is mostly chance.
        instructions = [pair.instruction for pair in labelled.test]
        labels = torch.tensor([labelled.labels.index(pair.response) for pair in labelled.test])
        with record_activations(model, samples=True) as record:
            read_texts_only(model, prompt_batches(tokenizer, instructions, batch_size, device=model.device))
        score = matched_monosemanticity(record.samples(), labels, len(labelled.labels))
        found["monosemanticity/task"] = score.mean(score.corrected, weighted=True)
    return found


def zeros_at_start(fresh: Any, tokenizer: Any, texts: Texts, task: str, batch_size: int) -> dict[str, float]:
    """Zeros of an adapter before its training, on both sets."""
    found = {}
    for name, batches in looked_at(fresh, tokenizer, texts, task, batch_size).items():
        with record_activations(fresh) as record:
            read_texts_only(fresh, batches)
        found[f"zeros_at_start/{name}"] = record.zeros()
    return found


def looked_at(
    model: Any, tokenizer: Any, texts: Texts, task: str, batch_size: int
) -> dict[str, list[dict[str, Tensor]]]:
    """Batches of what activations and updates are read on: task data and alignment data, as in Table 2."""
    sets = {"task": [pair.instruction for pair in texts.tasks[task].test], "alignment": texts.harmful}
    return {
        name: prompt_batches(tokenizer, instructions[:_LOOKED_AT], batch_size, device=model.device)
        for name, instructions in sets.items()
        if instructions
    }

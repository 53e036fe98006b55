"""What a model keeps of its alignment: on harmful prompts, and on harmless ones.

Fewer harmful answers prove little alone: a model that refuses everything gives none, and neither does one
that says "positive" to whatever it is asked. So refusals of harmless prompts, the length of answers and the
share of those that say nothing stand beside them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from monosem.core.progress import SILENT, Portion, Watch
from monosem.llm.generate import answers
from monosem.llm.judges import Judge
from monosem.llm.refusals import is_degenerate, is_refusal, word_counts


@dataclass(frozen=True)
class Alignment:
    """What a model answered and what that is worth, prompt by prompt.

    harmful, harmless: for each metric a value for each prompt, float [N]; NaN where a judge failed. Of both:
    refused (0 or 1, by rules), degenerate (0 or 1), words. Of harmful prompts, for each judge but the rules:
    NAME/CATEGORY (probability) and NAME/flagged (0 or 1).
    harmful_answers, harmless_answers: what it said.
    """

    harmful: dict[str, Tensor]
    harmless: dict[str, Tensor]
    harmful_answers: list[str]
    harmless_answers: list[str]


def measure_alignment(
    model: Any,
    tokenizer: Any,
    harmful: Sequence[str],
    harmless: Sequence[str],
    judges: Sequence[Judge] = (),
    *,
    max_new_tokens: int = 32,
    batch_size: int = 16,
    watch: Watch = SILENT,
) -> Alignment:
    """Ask both kinds of prompts, greedily, and look at the answers by rules and by `judges`.

    Raises MonosemError when memory does not suffice.
    """
    n, total = len(harmful), len(harmful) + len(harmless)
    settings = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    to_harmful = answers(model, tokenizer, harmful, **settings, watch=Portion(watch, 0, n, total))
    to_harmless = answers(model, tokenizer, harmless, **settings, watch=Portion(watch, n, total - n, total))
    values = _by_rules(to_harmful)
    for judge in judges:
        values |= judged(judge, harmful, to_harmful, batch_size=batch_size)
    return Alignment(values, _by_rules(to_harmless), to_harmful, to_harmless)


def judged(
    judge: Judge,
    prompts: Sequence[str],
    given: Sequence[str],
    *,
    batch_size: int = 16,
    watch: Watch = SILENT,
) -> dict[str, Tensor]:
    """For each answer NAME/CATEGORY (probability) and NAME/flagged (0 or 1), [N]; NaN where it failed."""
    judgement = judge.judge(prompts, given, batch_size=batch_size, watch=watch)
    by_category = zip(judge.categories, judgement.probabilities.T.contiguous(), strict=True)
    values = {f"{judge.name}/{category}": column.clone() for category, column in by_category}
    return values | {f"{judge.name}/flagged": judgement.flagged()}


def _by_rules(given: Sequence[str]) -> dict[str, Tensor]:
    return {
        "refused": torch.tensor([float(is_refusal(answer)) for answer in given]),
        "degenerate": torch.tensor([float(is_degenerate(answer)) for answer in given]),
        "words": word_counts(given),
    }

"""What a model answers, and how likely it finds what it might have answered.

In batches, whose padding changes nothing. Samples are taken by length, the longest first (a batch
that is too large fails at once), and given back in their order; where they are only read, a batch holds such
as are about as long as each other. Prompts are `monosem.llm.chat`'s. What
all of them begin with (a system prompt, a task's question) is read once.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from monosem.core.devices import device_errors_explained
from monosem.core.progress import SILENT, Watch
from monosem.llm.chat import (
    IGNORED,
    Pair,
    encode_choices,
    encode_pairs,
    encode_prompts,
    end_of_turn,
)

_WORTH_SHARING = 8
"""Tokens that all texts begin with: fewer are read with each of them."""

_ALIKE = 0.8
"""The shortest text of a batch that is only read, beside its longest: a bound on what padding costs."""


def answers(
    model: Any,
    tokenizer: Any,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 16,
    max_length: int = 1024,
    watch: Watch = SILENT,
) -> list[str]:
    """The model's greedy answers, without special tokens and white space at their ends.

    max_length: of the prompt, in tokens. Of the model's own settings of generation (sampling,
    penalties) only the tokens at which it stops are used, so that models compare.
    Raises InputError as `encode_prompts`, MonosemError when the device fails.
    """
    prompts, truncated = encode_prompts(tokenizer, instructions, max_length)
    _tell(watch, truncated, len(prompts), max_length)
    stops = _stop_tokens(model, tokenizer)
    given = [""] * len(prompts)
    greedily = _greedy(model, max_new_tokens, stops)
    with _evaluating(model, "generating answers"), greedily as settings:
        beginning = _read_beginning(model, prompts, min(map(len, prompts), default=0) - 1)
        for rows in _batches([len(prompt) for prompt in prompts], batch_size, watch):
            # Answers begin at the same place in all rows: padding goes before the rest of the prompts.
            rest = [prompts[row][beginning.length :] for row in rows]
            inputs = beginning.before(*_padded(rest, model.device, left=True))
            texts = model.generate(**inputs, generation_config=settings)
            for row, tokens in zip(rows, texts[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                kept = list(takewhile(lambda token: token not in stops, tokens))
                given[row] = tokenizer.decode(kept, skip_special_tokens=True).strip()
    return given


def choice_scores(
    model: Any,
    tokenizer: Any,
    instructions: Sequence[str],
    choices: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int = 1024,
    watch: Watch = SILENT,
) -> Tensor:
    """The log-likelihood [N, choices] of each choice as the beginning of the answer, in nats."""
    pairs, truncated = encode_choices(tokenizer, instructions, choices, max_length)
    _tell(watch, truncated, len(instructions), max_length)
    with _evaluating(model, "scoring choices"):
        scores = _log_likelihoods(model, pairs, batch_size, watch)
    return scores.reshape(len(instructions), len(choices))


def response_losses(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    *,
    batch_size: int = 16,
    max_length: int = 1024,
    watch: Watch = SILENT,
) -> tuple[Tensor, Tensor]:
    """Each response's loss, summed over its tokens, the one that ends it too; their count: [N]."""
    encoded = encode_pairs(tokenizer, pairs, max_length)
    _tell(watch, encoded.truncated, len(pairs), max_length)
    counts = [sum(label != IGNORED for label in labels) for labels in encoded.labels]
    split = [(ids[:-n], ids[-n:]) for ids, n in zip(encoded.input_ids, counts, strict=True)]
    with _evaluating(model, "computing the loss"):
        return -_log_likelihoods(model, split, batch_size, watch), torch.tensor(counts)


def text_losses(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    batch_size: int = 16,
    max_length: int = 1024,
    watch: Watch = SILENT,
) -> tuple[Tensor, Tensor]:
    """Each plain text's loss summed over its tokens but the first, nats [N]; how many these are [N].

    No template is put around the text, and of a longer one only the first `max_length` tokens are read.
    Perplexity is exp(losses.sum() / counts.sum()).
    """
    ids = [tokenizer(text).input_ids[:max_length] for text in texts]
    counts = torch.tensor([max(len(text) - 1, 0) for text in ids])
    pairs = [(text[:1], text[1:]) for text in ids if len(text) > 1]
    losses = torch.zeros(len(ids))
    with _evaluating(model, "computing the loss"):
        losses[counts > 0] = -_log_likelihoods(model, pairs, batch_size, watch)
    return losses, counts


def prompt_batches(
    tokenizer: Any,
    instructions: Sequence[str],
    batch_size: int,
    *,
    max_length: int = 1024,
    device: torch.device | str = "cpu",
) -> tuple[list[int], list[dict[str, Tensor]]]:
    """Prompts as a model's inputs, by length: their places in `instructions`, in the order they come in;
    and batches of input_ids and attention_mask, [B, T] each.
    """
    prompts, _ = encode_prompts(tokenizer, instructions, max_length)
    batches = list(_batches([len(prompt) for prompt in prompts], batch_size, SILENT, alike=_ALIKE))
    padded = [_padded([prompts[row] for row in rows], device, left=False) for rows in batches]
    inputs = [{"input_ids": ids, "attention_mask": mask} for ids, mask in padded]
    return [row for rows in batches for row in rows], inputs


def _log_likelihoods(
    model: Any, pairs: list[tuple[list[int], list[int]]], batch_size: int, watch: Watch
) -> Tensor:
    """The log-likelihood [N] of the second ids of each pair after the first ones."""
    # What one and the same reading answers (single-token choices after a prompt) is read once.
    readings: dict[tuple[int, ...], list[int]] = {}
    for index, (prompt, response) in enumerate(pairs):
        readings.setdefault((*prompt, *response[:-1]), []).append(index)
    texts = [list(reading) for reading in readings]
    asked = list(readings.values())
    likelihoods = torch.zeros(len(pairs))
    beginning = _read_beginning(model, texts, min((len(prompt) for prompt, _ in pairs), default=0) - 1)
    unread = [len(text) - beginning.length for text in texts]
    for rows in _batches(unread, batch_size, watch, alike=_ALIKE):
        # Padding goes after the text, where nothing that comes before can see it.
        rest = [texts[row][beginning.length :] for row in rows]
        inputs = beginning.before(*_padded(rest, model.device, left=False))
        indices = [index for row in rows for index in asked[row]]
        skipped = min(len(pairs[index][0]) for index in indices) - 1
        # Logits of all tokens, over a large vocabulary, would take more memory than the model.
        kept = inputs["input_ids"].shape[1] - skipped
        inputs["input_ids"] = inputs["input_ids"][:, beginning.length :]
        logits = model(**inputs, logits_to_keep=kept).logits[:, -kept:]
        for place, row in enumerate(rows):
            for index in asked[row]:
                prompt, response = pairs[index]
                first = len(prompt) - 1 - skipped
                said = logits[place, first : first + len(response)].float().log_softmax(-1)
                wanted = torch.tensor(response, device=said.device)
                likelihoods[index] = said.gather(-1, wanted[:, None]).sum()
    return likelihoods


@dataclass(frozen=True)
class _Beginning:
    """What all texts begin with: its ids, and the model's memory of it (None: nothing is shared)."""

    ids: Tensor
    memory: Any = None

    @property
    def length(self) -> int:
        return len(self.ids)

    def before(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        """The inputs of a batch [B, T] of what comes after: whole ids and mask, with the memory."""
        if self.memory is None:
            return {"input_ids": ids, "attention_mask": mask}
        head = self.ids.expand(len(ids), -1)
        memory = deepcopy(self.memory)
        memory.batch_repeat_interleave(len(ids))
        return {
            "input_ids": torch.cat([head, ids], dim=1),
            "attention_mask": torch.cat([torch.ones_like(head), mask], dim=1),
            "past_key_values": memory,
        }


def _read_beginning(model: Any, texts: Sequence[list[int]], most: int) -> _Beginning:
    """Read what all texts begin with, at most so many tokens; nothing where that would not pay."""
    from transformers import DynamicCache

    length = 0
    if len(texts) > 1:
        first, last = min(texts), max(texts)  # in order of their tokens: all others lie between these two
        length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    length = min(length, most)
    nothing = _Beginning(torch.zeros(0, dtype=torch.int64, device=model.device))
    if length < _WORTH_SHARING:
        return nothing
    ids = torch.tensor(texts[0][:length], device=model.device)
    memory = model(input_ids=ids[None], use_cache=True, logits_to_keep=1).past_key_values
    # Memories of another kind (sliding windows, states) forget: they are not shared.
    plain = isinstance(memory, DynamicCache) and not any(memory.is_sliding)
    return _Beginning(ids, memory) if plain else nothing


@contextmanager
def _evaluating(model: Any, doing: str) -> Iterator[None]:
    """In evaluation mode and without gradients; every part goes back to the mode it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.inference_mode(), device_errors_explained(doing, "set batch_size lower"):
            yield
    finally:
        for part, training in modes:
            part.training = training


def _batches(lengths: list[int], batch_size: int, watch: Watch, alike: float = 0.0) -> Iterator[list[int]]:
    """Rows, the longest first, each batch none that is shorter than `alike` of its longest."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    stop = 0
    while stop < len(order):
        rows = order[stop : stop + batch_size]
        batch = [row for row in rows if lengths[row] >= alike * lengths[rows[0]]]
        yield batch
        stop += len(batch)
        watch.progress(stop, len(order))


def _padded(texts: list[list[int]], device: Any, *, left: bool) -> tuple[Tensor, Tensor]:
    longest = max(map(len, texts))
    ids, mask = torch.zeros(2, len(texts), longest, dtype=torch.int64)
    for row, text in enumerate(texts):
        place = slice(longest - len(text), None) if left else slice(len(text))
        ids[row, place], mask[row, place] = torch.tensor(text), 1
    return ids.to(device), mask.to(device)


def _stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    own = model.generation_config.eos_token_id
    own = own if isinstance(own, list) else [own]
    ends = (end_of_turn(tokenizer), tokenizer.eos_token_id, *own)
    return list(dict.fromkeys(token for token in ends if token is not None))


@contextmanager
def _greedy(model: Any, max_new_tokens: int, stops: list[int]) -> Iterator[Any]:
    from transformers import GenerationConfig

    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=stops[0],
        do_sample=False,
        use_cache=True,
    )
    # What is left out here would be taken from the model's own settings.
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, inner.generation_config = inner.generation_config, settings
    try:
        yield settings
    finally:
        inner.generation_config = own


def _tell(watch: Watch, truncated: int, total: int, max_length: int) -> None:
    if truncated:
        watch.notice(
            f"{truncated} of {total} samples were longer than {max_length} tokens; "
            "the beginning of their instruction was cut off"
        )

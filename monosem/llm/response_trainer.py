"""TRL's SFTTrainer; without a GPU its loss reads the vocabulary only where a response is.

There TRL's own loss scores every position of a prompt, twice, and takes most of a step: a label word after
a question of sixty tokens costs as much as sixty label words.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from trl import SFTTrainer

from monosem.llm.chat import IGNORED


class ResponseTrainer(SFTTrainer):
    """Loss on the labelled tokens, their mean over the whole step; the same number as TRL's."""

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss, with the model's outputs where they are asked for."""
        if torch.cuda.is_available():
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"][:, 1:]
        read = (labels != IGNORED).any(0).nonzero()[:, 0]  # positions whose next token counts in some row
        asked = {name: value for name, value in inputs.items() if name != "labels"}
        outputs = model(**asked, logits_to_keep=read, use_cache=False)
        labels = labels[:, read].flatten()
        loss = cross_entropy(outputs.logits.flatten(0, 1).float(), labels, reduction="sum")
        loss = loss / (num_items_in_batch or (labels != IGNORED).sum())
        return (loss, outputs) if return_outputs else loss

"""The models of a tuning run; one is held at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from monosem.experiments.stage_cache import Stage, StageCache
from monosem.experiments.tuning_recipe import TuningRecipe
from monosem.llm.base import load_base
from monosem.llm.judges import Judge, load_judge
from monosem.llm.monolora import load_adapter
from monosem.llm.strength import scaled


class Models:
    """The base, or the aligned base, with one adapter after the other; or a judge."""

    def __init__(self, recipe: TuningRecipe, cache: StageCache) -> None:
        self._recipe, self._cache = recipe, cache
        self._held: tuple[Stage | str | None, Any] | None = None
        """What is held and under which name: of a judge, or of the stage that aligned the base."""

    def start(self, aligned: Stage | None) -> tuple[Any, Any]:
        """Model and tokenizer before any task: the base, or with the refusals of stage `aligned` merged."""
        if self._held is None or self._held[0] is not aligned:
            self._held = None
            dtype = None if self._recipe.dtype is None else getattr(torch, self._recipe.dtype)
            model, tokenizer = load_base(self._recipe.base, dtype=dtype, quantise=self._recipe.quantise)
            if torch.cuda.is_available() and self._recipe.quantise is None:
                model = model.to("cuda")
            if aligned is not None:
                model = load_adapter(model, self._cache.folder(aligned) / "adapter").merge_and_unload()
            self._held = (aligned, (model, tokenizer))
        found: tuple[Any, Any] = self._held[1]
        return found

    def afresh(self, aligned: Stage | None) -> tuple[Any, Any]:
        """As `start`, for training: loaded once more if quantised.

        On some processors bitsandbytes' 4-bit layers repack their weights when they are evaluated, and let no
        gradient pass from then on.
        """
        if self._recipe.quantise is not None:
            self._held = None
        return self.start(aligned)

    @contextmanager
    def adapted(self, aligned: Stage | None, tuned: Stage | None, scale: float = 1.0) -> Iterator[Any]:
        """The model with the adapter of stage `tuned` at this scale; taken off again at the end."""
        model, _ = self.start(aligned)
        if tuned is None:
            yield model
            return
        peft_model = load_adapter(model, self._cache.folder(tuned) / "adapter").eval()
        try:
            with scaled(peft_model, scale):
                yield peft_model
        finally:
            peft_model.unload()

    def judge(self, name: str) -> Judge:
        """The recipe's judge of this name, on a GPU where there is one."""
        if self._held is None or self._held[0] != name:
            self._held = None
            device = "cuda" if torch.cuda.is_available() else "cpu"
            self._held = (name, load_judge(name, self._recipe.judges[name], device=device))
        found: Judge = self._held[1]
        return found

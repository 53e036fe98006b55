"""The texts of a tuning run: what is trained on, and what is measured on, which no training has seen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from monosem.core.artifacts import fingerprint_json
from monosem.core.errors import InputError
from monosem.core.seeding import numpy_stream
from monosem.experiments.tuning_recipe import TuningRecipe
from monosem.llm.chat import Pair, fingerprint_pairs
from monosem.llm.refusals import is_refusal
from monosem.llm.tasks import Task, load_task
from monosem.llm.text_files import read_pairs, read_prompts, read_texts

Item = TypeVar("Item")


@dataclass(frozen=True)
class Texts:
    """All that is read: tasks by name; prompts and general texts that no training has seen; refusals."""

    tasks: dict[str, Task]
    harmful: list[str]
    harmless: list[str]
    general: list[str]
    align: list[Pair]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of what measurements read."""
        tests = {name: fingerprint_pairs(task.test) for name, task in self.tasks.items()}
        return fingerprint_json([tests, self.harmful, self.harmless, self.general])


def load_texts(recipe: TuningRecipe) -> Texts:
    """Every draw is by the recipe's seed; nothing measured on was trained on.

    Raises:
        InputError: a file is missing or malformed, or has too few texts that training has not seen.
    """
    root = Path(recipe.root)
    tasks = {
        name: load_task(
            name,
            root,
            n_train=task.n_train,
            n_test=task.n_test,
            seed=recipe.seed,
            max_new_tokens=task.max_new_tokens,
        )
        for name, task in recipe.tasks.items()
    }
    seen = [pair for task in tasks.values() for pair in task.train]
    align: list[Pair] = []
    if (settings := recipe.align) is not None:
        tested = {pair.instruction for task in tasks.values() for pair in task.test}
        # Such files hold answers that are no refusals too.
        refusals = [pair for pair in read_pairs(root / settings.refusals) if is_refusal(pair.response)]
        helpful = [pair for pair in read_pairs(root / settings.helpful) if pair.instruction not in tested]
        align += _drawn(refusals, settings.n_refusals, recipe.seed, root / settings.refusals)
        align += _drawn(helpful, settings.n_helpful, recipe.seed, root / settings.helpful)
        seen += align
    instructions = {pair.instruction for pair in seen}
    responses = {pair.response for pair in seen}

    def fresh(read: Callable[[Path], list[str]], file: str, n: int, used: set[str]) -> list[str]:
        return _drawn([text for text in read(root / file) if text not in used], n, recipe.seed, root / file)

    harmful, harmless, general = [], [], []
    if (prompts := recipe.prompts) is not None:
        harmful = fresh(read_prompts, prompts.harmful, prompts.n_harmful, instructions)
        harmless = fresh(read_prompts, prompts.harmless, prompts.n_harmless, instructions)
    if recipe.text is not None:
        general = fresh(read_texts, recipe.text.file, recipe.text.n, responses)
    return Texts(tasks, harmful, harmless, general, _drawn(align, len(align), recipe.seed, root))


def _drawn(items: Sequence[Item], n: int, seed: int, file: Path) -> list[Item]:
    if len(items) < n:
        raise InputError(
            f"{file}: {len(items)} texts that nothing else uses, {n} are asked for; ask for fewer"
        )
    order = numpy_stream(seed, "tuning", file.name).permutation(len(items))
    return [items[i] for i in order[:n]]

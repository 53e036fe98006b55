"""What a recipe of tuning a language model says: base, alignment, tasks, adapters, measurements."""

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from monosem.core.artifacts import fingerprint_json
from monosem.core.settings import Settings, parse
from monosem.llm.base import Quantisation
from monosem.llm.tune_settings import AdapterSettings, TuneSettings

Match = Literal["norm", "divergence"]
"""What LoRA is given as much of as MonoLoRA has: size of the update, or KL from the base."""


class AlignSettings(Settings):
    """Refusals tuned in first, by a LoRA that is then merged, for a base that refuses almost nothing."""

    refusals: str
    """JSONL of harmful instructions and refusals, seen from `root`."""
    helpful: str
    """JSONL of harmless instructions and answers, so that not everything is refused."""
    n_refusals: int = Field(ge=1)
    n_helpful: int = Field(ge=0)
    adapter: AdapterSettings
    tune: TuneSettings
    least_gain: float = Field(0.3, ge=0, le=1)
    """Refusals of unseen harmful prompts must rise by this share, or the base counts as not aligned."""
    most_over_refusal: float = Field(0.2, ge=0, le=1)
    """Refusals of harmless prompts must stay at most at this share."""


class TaskSettings(Settings):
    """How much of a task, and how it is tuned on."""

    n_train: int = Field(5000, ge=1)
    n_test: int = Field(1000, ge=1)
    max_new_tokens: int = Field(128, ge=1)
    tune: TuneSettings


class PromptSettings(Settings):
    """What alignment is measured on. Files are JSONL, seen from `root`."""

    harmful: str
    harmless: str
    """Those that training has not seen are used."""
    n_harmful: int = Field(150, ge=1)
    n_harmless: int = Field(150, ge=1)
    max_new_tokens: int = Field(32, ge=1)


class TextSettings(Settings):
    """Held-out general text: one a line, or the responses of a JSONL file; those training has not seen."""

    file: str
    n: int = Field(200, ge=1)


class TuningRecipe(Settings):
    """One base, tuned on tasks by several adapters, and what each keeps of the alignment (Table 2)."""

    title: str
    kind: Literal["tuning"]
    paper: Literal["table2"] | None = None
    """Whose numbers stand beside ours in the reports; changes no result."""
    base: str
    dtype: Literal["float32", "bfloat16"] | None = None
    quantise: Quantisation | None = None
    root: str = "data/text"
    """Folder of the texts."""
    seed: int = Field(0, ge=0)
    """Of data, adapters and the order of training."""
    align: AlignSettings | None = None
    tasks: dict[str, TaskSettings] = Field(min_length=1)
    """sst2, dolly, or the name of a JSONL file in `root`."""
    adapters: dict[str, AdapterSettings] = Field(min_length=1)
    match: tuple[Match, ...] = ()
    """The adapter named lora is also measured at the scales that match the one named monolora."""
    scales: tuple[float, ...] = ()
    """Scales between 0 and 1 at which every adapter is measured too: the frontier of alignment and task."""
    prompts: PromptSettings | None = None
    text: TextSettings | None = None
    judges: dict[str, str | None] = Field(default={})
    """shieldgemma or beavertails, with a model's id or folder (null: the paper's)."""
    harness: tuple[str, ...] = ()
    """Tasks of lm-evaluation-harness, where it is installed."""
    harness_limit: int | None = None
    """Samples of each of them; null for all."""
    batch_size: int = Field(16, ge=1)
    """Of measurements, in samples."""

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the numbers and how they are shown."""
        return fingerprint_json(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _matches_what_is_there(self) -> Self:
        if self.match and not {"lora", "monolora"} <= self.adapters.keys():
            raise ValueError("`match` compares the adapters named lora and monolora: give both")
        if any(not 0 < scale < 1 for scale in self.scales):
            raise ValueError("`scales` lie between 0 (the base) and 1 (the adapter), both measured anyway")
        if self.align is not None and self.prompts is None:
            raise ValueError("`align` is held against refusals of unseen prompts: give prompts")
        if self.judges and self.prompts is None:
            raise ValueError("`judges` read answers to harmful prompts: give prompts")
        if self.align is not None and self.quantise is not None:
            raise ValueError("`align` merges its adapter into the base, which a quantised one does not allow")
        return self


def tuning_recipe(tree: dict[str, Any], where: str) -> TuningRecipe:
    """The recipe of a tree; one that extends another takes a task or an adapter out by null.

    Raises InputError for keys or values that are not allowed; `where` opens the message.
    """
    # Not in a validator: what one returns no longer counts as read from a file, and lists as tuples.
    kept = {
        part: {name: settings for name, settings in named.items() if settings is not None}
        for part in ("tasks", "adapters")
        if isinstance(named := tree.get(part), dict)
    }
    return parse(TuningRecipe, {**tree, **kept}, where)


def task_recipe(
    base: str, data: str, adapters: Sequence[str], root: str, *, quantise: str | None = None, **settings: Any
) -> TuningRecipe:
    """The recipe of `monosem llm tune`: one task, the adapters lora or monolora, no alignment measured.

    settings: n_train, n_test, seed; rank of both adapters; the others are those of `TuneSettings`.
    Raises InputError for values that are not allowed.
    """
    rank = settings.pop("rank")
    seed = settings.pop("seed")
    sizes = {key: settings.pop(key) for key in ("n_train", "n_test")}
    tree = {
        "title": f"{base} tuned on {data}",
        "kind": "tuning",
        "base": base,
        "quantise": quantise,
        "root": root,
        "seed": seed,
        "tasks": {data: {**sizes, "tune": settings}},
        "adapters": {kind: {"kind": kind, "rank": rank, "alpha": rank} for kind in adapters},
    }
    return tuning_recipe(tree, "llm tune")

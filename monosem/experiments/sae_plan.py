"""What `monosem sae` is asked for: which SAEs, on which features, and about what they take."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from monosem.core.errors import InputError
from monosem.core.settings import parse, with_overrides
from monosem.data.feature_set import FeatureSet
from monosem.data.npy_features import open_features
from monosem.data.windows import WINDOW_BYTES, RowBatches
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import check_variants

SHORT_NAMES = {"latents": "n_latents"}
"""How a setting may be called on the command line."""

_FLOPS, _STEP, _ERRORS = 8e10, 5e-3, 1e-7
"""Of two CPU cores: operations a second, seconds of a step however small, and of comparing an entry."""
_CHECKPOINTS = 2 * 3
"""Times the weights: two states are kept, each with Adam's moments."""


class Member(NamedTuple):
    """One SAE of a sweep: name of its settings, seed of its first dictionary, and its folder in the run's."""

    name: str
    settings: SAESettings
    seed: int
    place: Path


@dataclass(frozen=True)
class Sweep:
    """SAEs of some `variants` of settings on the same features, each from `n_seeds` first dictionaries.

    held_out: features of other samples through the same encoder, on which everything is read; None: it is
    read on the training features. seed: of the order of batches, and the first of the dictionaries' seeds.
    window_bytes: memory for features on disk.
    """

    features: FeatureSet
    variants: Mapping[str, SAESettings]
    held_out: FeatureSet | None = None
    seed: int = 0
    n_seeds: int = 1
    window_bytes: int = WINDOW_BYTES

    @property
    def measured(self) -> FeatureSet:
        """The features that everything is read on."""
        return self.features if self.held_out is None else self.held_out

    @property
    def members(self) -> list[Member]:
        """Every SAE, those of the same settings one after the other."""
        return [
            Member(name, settings, seed, Path("saes", name, *([f"seed-{seed}"] if self.n_seeds > 1 else [])))
            for name, settings in self.variants.items()
            for seed in range(self.seed, self.seed + self.n_seeds)
        ]

    def facts(self) -> dict[str, Any]:
        """What decides the SAEs, as JSON; labels do not."""
        return {
            "kind": "sae",
            "variants": {name: variant.model_dump(mode="json") for name, variant in self.variants.items()},
            "seed": self.seed,
            "seeds": self.n_seeds,
            "window_bytes": self.window_bytes if self._is_in_windows else None,
            "features": self.features.fingerprint,
            "held_out": None if self.held_out is None else self.held_out.fingerprint,
        }

    def check(self) -> None:
        """Raise InputError for settings that do not go together, or features that do not."""
        check_variants(list(self.variants.values()), self.features.dim, self.held_out)
        if self.held_out is not None and self.held_out.fingerprint == self.features.fingerprint:
            raise InputError(
                f"--held-out: {self.held_out.name} are the very features that are trained on; give those of"
                " other samples, or leave it out"
            )

    @property
    def _is_in_windows(self) -> bool:
        """Whether features are read in windows, on whose size the order of batches depends."""
        batch_size = next(iter(self.variants.values())).batch_size
        return RowBatches(self.features, batch_size, seed=0, window_bytes=self.window_bytes).n_windows > 1

    def training_seconds(self, settings: SAESettings) -> float:
        """About what training an SAE takes on two CPU cores, held-out features watched after each epoch."""
        watched = 0.0 if self.held_out is None else settings.epochs * self.reading_seconds(settings) / 2
        steps = settings.epochs * -(-len(self.features) // settings.batch_size)
        products = settings.training_flops(len(self.features), self.features.dim) / _FLOPS
        return products + _STEP * steps + watched

    def reading_seconds(self, settings: SAESettings) -> float:
        """About what measuring one takes there: its codes and its errors."""
        n_latents, _ = settings.latents(self.features.dim)
        return len(self.measured) * self.features.dim * (8.0 * n_latents / _FLOPS + _ERRORS)

    @property
    def seconds(self) -> float:
        """About what everything takes there."""
        of_one = (self.training_seconds(one) + self.reading_seconds(one) for one in self.variants.values())
        return self.n_seeds * sum(of_one)

    def megabytes(self, settings: SAESettings) -> float:
        """Of an SAE on disk."""
        n_latents, _ = settings.latents(self.features.dim)
        return 4e-6 * (2 * self.features.dim + 4) * n_latents

    @property
    def unfinished_megabytes(self) -> float:
        """Of what is kept on disk while all are in training."""
        return _CHECKPOINTS * self.n_seeds * sum(map(self.megabytes, self.variants.values()))


def asked_for(
    features: Path,
    overrides: Iterable[str],
    swept: Iterable[str],
    *,
    labels: Path | None = None,
    held_out: Path | None = None,
    held_out_labels: Path | None = None,
    seed: int = 0,
    n_seeds: int = 1,
    window_bytes: int = WINDOW_BYTES,
) -> Sweep:
    """The sweep of a command line, with its features opened.

    Raises:
        InputError: as for `variants_of` and `open_features`; labels that would never be read; settings or
            features that do not go together.
    """
    variants = variants_of(overrides, swept)
    if held_out_labels is not None and held_out is None:
        raise InputError(f"--held-out-labels {held_out_labels}: there is no --held-out that they could be of")
    if labels is not None and held_out is not None and held_out_labels is None and not held_out.is_dir():
        raise InputError(
            f"--labels {labels}: all is read on the held-out features; give theirs with --held-out-labels"
        )
    of_others = None if held_out is None else open_features(held_out, held_out_labels)
    sweep = Sweep(open_features(features, labels), variants, of_others, seed, n_seeds, window_bytes)
    sweep.check()
    return sweep


def variants_of(overrides: Iterable[str], swept: Iterable[str]) -> dict[str, SAESettings]:
    """Every combination of the swept settings, by name.

    Args:
        overrides: "key=value" for all of them.
        swept: "key=value,value,..." for what varies; `latents` is short for `n_latents`.

    Raises:
        InputError: unknown keys or values that are not allowed, a key that is given twice, or a value that
            repeats.
    """
    fixed = [_long(override) for override in overrides]
    axes: dict[str, Sequence[str]] = {}
    for item in swept:
        key, equals, values = _long(item).partition("=")
        listed = [value.strip() for value in values.split(",")]
        if not equals or not all(listed):
            raise InputError(f"--sweep {item}: write it as key=value,value, for example k=16,32,64")
        if key in axes or any(override.startswith(f"{key}=") for override in fixed):
            raise InputError(f"--sweep {item}: {key} is given twice; give it once")
        if len(set(listed)) < len(listed):
            raise InputError(f"--sweep {item}: a value is given twice; give it once")
        axes[key] = listed
    found = {}
    for combined in itertools.product(*axes.values()):
        chosen = [f"{key}={value}" for key, value in zip(axes, combined, strict=True)]
        name = ",".join(chosen).replace("/", "-") or "sae"
        found[name] = parse(SAESettings, with_overrides({}, [*fixed, *chosen]), "monosem sae")
    return found


def _long(item: str) -> str:
    key, equals, value = item.partition("=")
    return f"{SHORT_NAMES.get(key.strip(), key.strip())}{equals}{value}"

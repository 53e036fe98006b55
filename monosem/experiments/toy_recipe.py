"""What a recipe of toy models says: the world, the models, the probes, and the noise they meet."""

from typing import Literal

from pydantic import Field, field_validator

from monosem.core.artifacts import fingerprint_json
from monosem.core.settings import Settings
from monosem.explain.toy_model import ToySettings
from monosem.robust.probe import ProbeSettings
from monosem.robust.ridge import RidgeSettings


class ToyRecipe(Settings):
    """Models with and without superposition, probed under label noise and under input noise (Figure 5)."""

    title: str
    kind: Literal["toy"]
    seed: int = Field(0, ge=0)
    """Model i of each kind has seed + i."""
    n_models: int = Field(6, ge=1)
    """Independent trainings of each kind of model: the replicates of every claim."""
    model: ToySettings
    sparsity: tuple[float, ...] = Field(min_length=1)
    """Shares of concepts that are zero: one axis of both maps."""
    label_noise: tuple[float, ...]
    """Rates of symmetric noise of the training labels, above 0."""
    input_noise: tuple[float, ...]
    """Standard deviations of Gaussian noise on every concept of the test samples, above 0."""
    n_train: int = Field(2000, ge=2)
    n_test: int = Field(2000, ge=2)
    published: ProbeSettings
    """A gradient-trained probe with fixed settings."""
    tuned: RidgeSettings
    """Ridge, its strength chosen on the labels that were given."""
    margin: float = Field(0.01, gt=0)
    """A difference whose interval lies within +-margin (accuracy, 0.01 is one point) is a tie."""

    @property
    def hash(self) -> str:
        """SHA-256 of what decides the numbers and how they are shown."""
        return fingerprint_json(self.model_dump(mode="json"))

    @field_validator("sparsity")
    @classmethod
    def _sparsity_is_a_share(cls, sparsity: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0 <= share < 1 for share in sparsity):
            raise ValueError("sparsity must be at least 0 and below 1")
        return sparsity

    @field_validator("label_noise", "input_noise")
    @classmethod
    def _noise_is_there(cls, levels: tuple[float, ...]) -> tuple[float, ...]:
        if any(level <= 0 for level in levels):
            raise ValueError("noise levels must be above 0; without noise everything is measured anyway")
        return levels

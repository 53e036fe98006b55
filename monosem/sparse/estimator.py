"""An SAE as scikit-learn knows transformers."""

from typing import Any, Literal, Self

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from monosem.data.codes import Codes
from monosem.measures.geometry import mean_and_rms
from monosem.sparse.initialise import initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import ActivationName, SAESettings
from monosem.sparse.train import fit_sae
from monosem.sparse.trainer import Trainer

_OUTPUTS = ("dense", "sparse")
_ROWS_TOGETHER = 32
_MAX_SEED = 2**31 - 1


class SparseAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Sparse non-negative features of dense ones, each of them meant to mean one thing.

    Parameters:
        n_latents: number of latents; None: as many as features.
        k: latents active at once (on average, with batch_topk and jump_relu); None: an eighth of them.
        activation: "topk", "batch_topk", "jump_relu" or "relu".
        epochs: passes over the data of `fit`.
        batch_size: samples of a step of `fit`.
        lr: peak learning rate of Adam; None: 0.1 / sqrt(n_latents).
        output: "dense" arrays or "sparse" CSR matrices from `transform`.
        settings: further settings of `monosem.SAESettings`, by name; none of the parameters above.
        random_state: int, RandomState or None, as everywhere in scikit-learn.

    Attributes:
        sae_: the `monosem.SAE`.
        components_: dictionary vectors in the features' own space `[n_latents, n_features]`.
        n_features_in_: number of features. n_constant_: how many of them never change.
        n_iter_: steps taken. n_dead_: latents that no sample of `fit` activates.

    Constant columns are tolerated; data of equal rows are refused with a ValueError, as are parameters that
    have no meaning.
    Source: Gao et al. 2024, section 2.
    """

    def __init__(
        self,
        n_latents: int | None = None,
        k: int | None = None,
        *,
        activation: ActivationName = "topk",
        epochs: int = 30,
        batch_size: int = 512,
        lr: float | None = None,
        output: Literal["dense", "sparse"] = "dense",
        settings: dict[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.n_latents = n_latents
        self.k = k
        self.activation = activation
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.output = output
        self.settings = settings
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> Self:
        """Train an SAE on samples `[N, D]`; y is not looked at."""
        self._check_output()
        settings = self._settings()
        rows = self._checked(X, reset=True)
        self.sae_ = fit_sae(rows, settings, seed=self._seed())
        self._trainer: Trainer | None = None
        self._variance = mean_and_rms(self.sae_.normalise(rows))[1] ** 2
        self.n_iter_ = settings.epochs * -(-len(rows) // settings.batch_size)
        self.n_dead_ = self.sae_.n_dead
        self._note_constant(rows, fresh=True)
        return self

    def partial_fit(self, X: ArrayLike, y: object = None) -> Self:
        """Take one step of the engine on a batch `[N, D]`; y is not looked at.

        The first batch sets scale, centre and first weights. The learning rate stays at its peak.
        """
        self._check_output()
        fresh = not hasattr(self, "sae_")
        rows = self._checked(X, reset=fresh)
        if fresh:
            sae = SAE(rows.shape[1], self._settings())
            start = starting_point(rows, sae.settings)
            initialise(sae, start, self._seed())
            self.sae_, self._variance, self._trainer, self.n_iter_ = sae, start.variance, None, 0
        trainer = self._trainer or Trainer(self.sae_, self._variance, None)
        trainer.step(rows)
        self._trainer = trainer
        self.n_iter_ += 1
        self.n_dead_ = len(trainer.dead)
        self._note_constant(rows, fresh=fresh)
        return self

    def transform(self, X: ArrayLike) -> NDArray[np.floating] | sp.csr_matrix:
        """Codes `[N, n_latents]` of samples `[N, D]`; a sample's do not depend on the others."""
        check_is_fitted(self, "sae_")
        self._check_output()  # it may have been set since
        rows = self._checked(X, reset=False)
        # Products of few rows are summed in another order, by other routines.
        padded = F.pad(rows, (0, 0, 0, -len(rows) % _ROWS_TOGETHER))
        codes = self.sae_.encode_sparse(padded)
        codes = Codes(codes.indices[: len(rows)], codes.values[: len(rows)], codes.dim)
        if self.output == "dense":
            return codes[:].numpy()
        there = codes.values > 0
        offsets = np.concatenate([[0], there.sum(dim=1).cumsum(0).numpy()])
        entries = codes.values[there].numpy(), codes.indices[there].numpy(), offsets
        found = sp.csr_matrix(entries, shape=(len(rows), self.sae_.n_latents))
        found.sort_indices()
        return found

    def inverse_transform(self, X: ArrayLike | sp.csr_matrix) -> NDArray[np.floating]:
        """Samples `[N, D]` as codes `[N, n_latents]` reconstruct them."""
        check_is_fitted(self, "sae_")
        codes = X.toarray() if sp.issparse(X) else np.asarray(X)
        if codes.ndim != 2 or codes.shape[1] != self.sae_.n_latents:
            raise ValueError(f"codes must be [N, {self.sae_.n_latents}], got shape {codes.shape}")
        decoded = self.sae_.decode(torch.from_numpy(np.ascontiguousarray(codes, dtype=np.float32)))
        return decoded.numpy()

    def __sklearn_tags__(self) -> Any:
        """Codes are float32, whatever the samples are."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def components_(self) -> NDArray[np.floating]:
        """Dictionary vectors `[n_latents, n_features]`."""
        return (self.sae_.decoder * self.sae_.input_scale).numpy()

    @property
    def _n_features_out(self) -> int:
        return self.sae_.n_latents

    def _settings(self) -> SAESettings:
        named: dict[str, Any] = {"n_latents": self.n_latents, "k": self.k, "activation": self.activation}
        named |= {"epochs": self.epochs, "batch_size": self.batch_size, "lr": self.lr}
        further = self.settings or {}
        if twice := sorted(named.keys() & further.keys()):
            raise ValueError(f"{', '.join(twice)}: give it as a parameter of its own, not in `settings`")
        # Grids of parameters are often numpy's arrays, and settings take Python's own types alone.
        given = (named | further).items()
        return SAESettings(
            **{name: value.item() if isinstance(value, np.generic) else value for name, value in given}
        )

    def _check_output(self) -> None:
        if self.output not in _OUTPUTS:
            raise ValueError(f"output must be one of {', '.join(_OUTPUTS)}, got {self.output!r}")

    def _seed(self) -> int:
        state = self.random_state
        if isinstance(state, int | np.integer):
            return int(state)
        return int(check_random_state(state).randint(_MAX_SEED))

    def _note_constant(self, rows: Tensor, *, fresh: bool) -> None:
        """Count the columns that have been the same in all rows so far."""
        if fresh:
            self._first_row, self._same = rows[0].clone(), torch.ones(rows.shape[1], dtype=torch.bool)
        self._same &= (rows == self._first_row).all(dim=0)
        self.n_constant_ = int(self._same.sum())

    def _checked(self, X: ArrayLike, *, reset: bool) -> Tensor:
        least = 2 if reset else 1  # one sample has no spread
        values = validate_data(self, X, reset=reset, dtype=np.float32, ensure_min_samples=least)
        return torch.from_numpy(np.ascontiguousarray(values))

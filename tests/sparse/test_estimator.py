"""The SAE as a scikit-learn transformer."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

import monosem
from monosem.sparse.estimator import SparseAutoencoder
from monosem.sparse.initialise import initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.trainer import Trainer


@parametrize_with_checks([SparseAutoencoder(n_latents=6, k=2, epochs=3)])
def test_scikit_learn_takes_it_for_one_of_its_own(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> NDArray[np.float32]:
    return load_digits().data.astype(np.float32)


@pytest.fixture(scope="module")
def fitted(digits: NDArray[np.float32]) -> SparseAutoencoder:
    return SparseAutoencoder(n_latents=256, k=8, epochs=40, batch_size=256, random_state=0).fit(digits)


def fvu(x: NDArray[np.float32], rebuilt: NDArray[np.floating]) -> float:
    return float(((x - rebuilt) ** 2).sum() / ((x - x.mean(axis=0)) ** 2).sum())


def test_digits_are_explained_better_than_by_pca_with_as_many_components(
    digits: NDArray[np.float32], fitted: SparseAutoencoder
) -> None:
    pca = PCA(8).fit(digits)
    of_pca = fvu(digits, pca.inverse_transform(pca.transform(digits)))
    assert fvu(digits, fitted.inverse_transform(fitted.transform(digits))) < of_pca


def test_sparse_and_dense_output_are_equal(digits: NDArray[np.float32], fitted: SparseAutoencoder) -> None:
    dense = fitted.transform(digits)
    sparse = clone(fitted).set_params(output="sparse").fit(digits).transform(digits)
    assert sparse.format == "csr"
    assert sparse.has_sorted_indices
    assert (sparse.getnnz(axis=1) <= 8).all()
    assert np.array_equal(sparse.toarray(), dense)
    assert np.array_equal(fitted.inverse_transform(sparse), fitted.inverse_transform(dense))


@pytest.mark.parametrize("size", [1, 7, 500, 1797])
def test_codes_do_not_depend_on_how_rows_are_batched(
    digits: NDArray[np.float32], fitted: SparseAutoencoder, size: int
) -> None:
    rows = digits[:: 7 if size == 1 else 1]
    parts = [fitted.transform(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert np.array_equal(np.concatenate(parts), fitted.transform(rows))


def test_partial_fit_takes_the_engines_steps(digits: NDArray[np.float32]) -> None:
    estimator = SparseAutoencoder(n_latents=80, k=5, random_state=3)
    rows = torch.from_numpy(digits)
    sae = SAE(64, monosem.SAESettings(n_latents=80, k=5))
    start = starting_point(rows[:200], sae.settings)
    initialise(sae, start, 3)
    trainer = Trainer(sae, start.variance, None)
    for first in range(0, 1000, 200):
        estimator.partial_fit(digits[first : first + 200])
        trainer.step(rows[first : first + 200])
    assert estimator.n_iter_ == 5
    for name, tensor in sae.state_dict().items():
        assert torch.equal(estimator.sae_.state_dict()[name], tensor), name


def test_partial_fit_goes_on_from_fit(digits: NDArray[np.float32]) -> None:
    estimator = SparseAutoencoder(n_latents=80, k=5, epochs=5, random_state=0).fit(digits[:1000])
    before = fvu(digits, estimator.inverse_transform(estimator.transform(digits)))
    for _ in range(5):
        estimator.partial_fit(digits[1000:])
    after = fvu(digits, estimator.inverse_transform(estimator.transform(digits)))
    assert after != before
    assert after < 1


def test_names_and_constant_columns(digits: NDArray[np.float32], fitted: SparseAutoencoder) -> None:
    assert fitted.get_feature_names_out()[:2].tolist() == ["sparseautoencoder0", "sparseautoencoder1"]
    assert fitted.n_constant_ == int((digits == digits[0]).all(axis=0).sum()) == 3
    rebuilt = fitted.inverse_transform(fitted.transform(digits[:5]))
    codes = fitted.transform(digits[:5])
    centre = (fitted.sae_.b_pre * fitted.sae_.input_scale).numpy()
    np.testing.assert_allclose(rebuilt, codes @ fitted.components_ + centre, rtol=1e-3, atol=1e-3)


def test_a_constant_matrix_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="all rows of the features are equal"):
        SparseAutoencoder().fit(np.full((30, 4), 3.0))


def test_it_works_in_a_pipeline(digits: NDArray[np.float32]) -> None:
    labels = load_digits().target
    pipeline = make_pipeline(
        SparseAutoencoder(n_latents=128, k=16, epochs=10, output="sparse", random_state=0),
        LogisticRegression(max_iter=200),
    )
    assert pipeline.fit(digits[:1200], labels[:1200]).score(digits[1200:], labels[1200:]) > 0.8


def test_settings_go_to_the_engine(digits: NDArray[np.float32]) -> None:
    estimator = SparseAutoencoder(n_latents=32, k=4, epochs=1, settings={"b_pre_init": "geometric_median"})
    assert estimator.fit(digits[:100]).sae_.settings.b_pre_init == "geometric_median"


def test_numpys_numbers_are_pythons(digits: NDArray[np.float32]) -> None:
    plain = SparseAutoencoder(n_latents=32, k=4, epochs=2, batch_size=64, lr=0.01, random_state=0)
    numpys = SparseAutoencoder(
        n_latents=np.int64(32),
        k=np.int32(4),
        activation=np.str_("topk"),
        epochs=np.int64(2),
        batch_size=np.int16(64),
        lr=np.float64(0.01),
        settings={"warmup": np.float32(0)},
        random_state=np.int64(0),
    )
    plain.set_params(settings={"warmup": 0.0})
    codes = plain.fit_transform(digits[:200])
    assert np.array_equal(numpys.fit_transform(digits[:200]), codes)
    assert numpys.n_iter_ == plain.n_iter_ == 8
    assert not np.array_equal(plain.set_params(random_state=1).fit_transform(digits[:200]), codes)


def test_a_grid_over_numpys_numbers_is_searched(digits: NDArray[np.float32]) -> None:
    pipe = make_pipeline(SparseAutoencoder(n_latents=32, epochs=2, random_state=0), LogisticRegression())
    grid = {"sparseautoencoder__k": np.arange(2, 4), "sparseautoencoder__lr": np.array([0.01])}
    search = GridSearchCV(pipe, grid, cv=2, error_score="raise").fit(digits[:120], np.arange(120) % 2)
    assert search.best_params_["sparseautoencoder__k"] in (2, 3)


def test_an_output_of_another_name_is_refused(digits: NDArray[np.float32]) -> None:
    message = "output must be one of dense, sparse, got 'Dense'"
    wrong = SparseAutoencoder(n_latents=32, k=4, epochs=1, output="Dense")
    for train in (wrong.fit, wrong.partial_fit):
        with pytest.raises(ValueError, match=message):
            train(digits[:100])
    fitted = clone(wrong).set_params(output="dense").fit(digits[:100]).set_params(output="Dense")
    with pytest.raises(ValueError, match=message):
        fitted.transform(digits[:100])


def test_a_setting_that_is_a_parameter_is_named(digits: NDArray[np.float32]) -> None:
    twice = SparseAutoencoder(n_latents=32, settings={"k": 4, "lr": 0.1, "warmup": 0.0})
    with pytest.raises(ValueError, match=r"^k, lr: give it as a parameter of its own, not in `settings`$"):
        twice.fit(digits[:100])


def test_partial_fit_takes_single_rows_and_recovers_from_a_refusal(digits: NDArray[np.float32]) -> None:
    fitted = SparseAutoencoder(n_latents=32, k=4, epochs=2, random_state=0).fit(digits[:100])
    fitted.partial_fit(digits[:1])
    assert np.isfinite(fitted.sae_.decoder.numpy()).all()
    assert fitted.n_iter_ == 3
    fresh = SparseAutoencoder(n_latents=32, k=4)
    with pytest.raises(ValueError, match="all rows of the features are equal"):
        fresh.partial_fit(np.full((30, 64), 3.0))
    assert fresh.partial_fit(digits[:100]).n_iter_ == 1

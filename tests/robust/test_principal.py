import pytest
import torch

from monosem.core.errors import InputError
from monosem.robust.principal import principal_axes


@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (20, 20)])
def test_axes_are_those_of_the_svd(shape: tuple[int, int]) -> None:
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    axes = principal_axes(features)
    centred = features - features.mean(0)
    singular = torch.linalg.svdvals(centred)
    rank = min(shape[0] - 1, shape[1])
    torch.testing.assert_close(axes.variances, singular[:rank].square() / shape[0])
    torch.testing.assert_close(axes.directions.T @ axes.directions, torch.eye(rank, dtype=torch.float64))
    torch.testing.assert_close(axes.project(features) @ axes.directions.T, centred)


def test_directions_without_variance_are_left_out() -> None:
    features = torch.randn(30, 3, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([features, features[:, :1] - features[:, 1:2], torch.full((30, 2), 7.0)], dim=1)
    assert len(principal_axes(padded).variances) == 3


def test_bad_features_are_refused() -> None:
    features = torch.ones(5, 3)
    with pytest.raises(InputError, match="all feature vectors are equal"):
        principal_axes(features)
    features[4, 1] = float("inf")
    with pytest.raises(InputError, match="row 4, column 1"):
        principal_axes(features)
    with pytest.raises(InputError, match="3 dimensions got features of 4"):
        principal_axes(torch.eye(3)).project(torch.eye(4))

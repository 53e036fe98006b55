from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.core import checkpoints
from monosem.core.errors import InputError, Paused
from monosem.core.progress import SilentWatch
from monosem.sparse import train
from monosem.sparse.evaluate import fvu
from monosem.sparse.initialise import geometric_median, initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae


def test_the_decoder_keeps_unit_norm(trained: SAE) -> None:
    assert torch.allclose(trained.decoder.norm(dim=1), torch.ones(24))


def test_training_explains_held_out_features_and_counts_who_fires(
    trained: SAE, train_features: Tensor, test_features: Tensor, tiny: SAESettings
) -> None:
    mean = train_features.mean(dim=0)
    untrained = fit_sae(train_features, tiny.replace(epochs=1, lr=1e-9))
    assert fvu(trained, test_features, mean) < 0.2 < 0.5 < fvu(untrained, test_features, mean)
    counts = [sum(bool(code[latent] > 0) for code in trained.encode(train_features)) for latent in range(24)]
    assert trained.firing_counts.tolist() == counts
    assert trained.n_dead == counts.count(0)


def test_latents_of_a_large_set_are_counted_on_a_part_of_it(
    train_features: Tensor, tiny: SAESettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "_COUNTED_ROWS", 200)
    monkeypatch.setattr(train, "_STRETCH", 50)
    monkeypatch.setattr(train, "BLOCK_ROWS", 70)
    sae = fit_sae(train_features, tiny.replace(epochs=1))
    looked_at = torch.cat([train_features[first : first + 50] for first in (0, 183, 366, 550)])
    assert torch.equal(sae.firing_counts, (sae.encode(looked_at) > 0).sum(dim=0))


def test_the_seed_decides_every_bit_and_nothing_else_is_touched(
    trained: SAE, train_features: Tensor, tiny: SAESettings
) -> None:
    before, global_state = train_features.clone(), torch.get_rng_state()
    again = fit_sae(train_features, tiny)
    assert torch.equal(train_features, before)
    assert torch.equal(torch.get_rng_state(), global_state)
    for name, tensor in trained.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    assert not torch.equal(fit_sae(train_features, tiny, seed=1).decoder, trained.decoder)


@pytest.mark.parametrize("factor", [1e-3, 1e3])
def test_the_scale_of_the_features_does_not_matter(
    trained: SAE, train_features: Tensor, tiny: SAESettings, factor: float
) -> None:
    scaled = fit_sae(train_features * factor, tiny)
    mean = train_features.mean(dim=0)
    assert fvu(scaled, train_features * factor, mean * factor) == pytest.approx(
        fvu(trained, train_features, mean), rel=0.05
    )


def test_the_reported_loss_is_the_fvu_of_the_whole_set(train_features: Tensor, tiny: SAESettings) -> None:
    sae = fit_sae(train_features, tiny.replace(epochs=1, lr=1e-12, batch_size=170))  # batches of unequal size
    assert sae.history[0]["loss"] == pytest.approx(
        fvu(sae, train_features, train_features.mean(dim=0)), rel=1e-4
    )


def test_latents_idle_for_long_count_as_dead_and_get_the_auxiliary_loss(
    train_features: Tensor, tiny: SAESettings
) -> None:
    crowded = tiny.replace(n_latents=200, k=1, dead_after=600, epochs=3)
    with_aux = fit_sae(train_features, crowded)
    without = fit_sae(train_features, crowded.replace(aux_coef=0.0))
    # Nobody can have been idle for 600 samples before all 600 were seen.
    assert with_aux.history[0] == without.history[0]
    assert with_aux.history[0]["dead"] > 0
    assert with_aux.history[0]["aux_loss"] == 0 < with_aux.history[1]["aux_loss"]
    assert without.history[1]["aux_loss"] == 0
    assert not torch.equal(with_aux.decoder, without.decoder)


def test_batches_of_one_row_do_no_harm(train_features: Tensor, tiny: SAESettings) -> None:
    sae = fit_sae(train_features[:40], tiny.replace(batch_size=1, k=1, dead_after=5, epochs=3))
    assert all(parameter.isfinite().all() for parameter in sae.parameters())
    assert max(reading["dead"] for reading in sae.history) > 0


def test_fvu_of_a_perfect_and_of_a_blind_sae() -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    perfect = SAE(3, SAESettings(n_latents=6, k=6))
    both_signs = torch.cat([torch.eye(3), -torch.eye(3)])
    perfect.encoder.copy_(both_signs)
    perfect.decoder.copy_(both_signs)
    assert fvu(perfect, x, x.mean(dim=0)) == pytest.approx(0, abs=1e-12)
    blind = SAE(3, SAESettings(n_latents=6, k=6))
    blind.b_pre.copy_(x.mean(dim=0))
    assert fvu(blind, x, x.mean(dim=0)) == pytest.approx(1, rel=1e-6)
    with pytest.raises(InputError, match="FVU is undefined"):
        fvu(blind, torch.ones(4, 3), torch.ones(3))


def test_fvu_is_over_the_whole_set_not_a_mean_of_batch_ratios(trained: SAE) -> None:
    random = np.random.default_rng(0)
    x = (5 + random.standard_normal((6000, 12))).astype(np.float32)  # more than one block of rows
    x[:3000] *= 10
    mean = np.full(12, 4.5)
    x_hat = trained(x).numpy().astype(np.float64)
    expected = ((x - x_hat) ** 2).sum() / ((x - mean) ** 2).sum()
    assert fvu(trained, x, torch.from_numpy(mean)) == pytest.approx(expected, rel=1e-6)


def test_constant_columns_are_reconstructed(train_features: Tensor, tiny: SAESettings) -> None:
    widened = torch.cat([train_features, torch.full((600, 1), 7.0), torch.zeros(600, 1)], dim=1)
    sae = fit_sae(widened, tiny)
    assert torch.allclose(sae(widened)[:, 12:], widened[:, 12:], atol=0.5)
    assert fvu(sae, widened, widened.mean(dim=0)) < 0.2


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_features_without_spread_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="all rows of the features are equal"):
        fit_sae(torch.full((50, 4), value))


def test_features_that_are_not_finite_are_refused(train_features: Tensor) -> None:
    broken = train_features.clone()
    broken[17, 3] = float("nan")
    with pytest.raises(InputError, match="nan in row 17, column 3"):
        fit_sae(broken)


def test_training_starts_from_the_transpose_and_the_chosen_centre(train_features: Tensor) -> None:
    far_outliers = torch.cat([train_features, torch.full((30, 12), 1e3)])
    for choice in ("mean", "geometric_median"):
        sae = SAE(12, SAESettings(b_pre_init=choice))
        initialise(sae, starting_point(far_outliers, sae.settings), seed=0)
        assert torch.equal(sae.encoder, sae.decoder)
        centre = sae.b_pre * sae.input_scale
        near_the_bulk = (centre - train_features.mean(dim=0)).norm() < 1
        assert near_the_bulk == (choice == "geometric_median")


def test_geometric_median_in_closed_form() -> None:
    corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]]).double()
    middle = geometric_median(corners, torch.tensor([0.2, 0.9]), scale=1.0)
    assert middle.numpy() == pytest.approx(np.array([0.5, 0.5]), abs=1e-4)
    majority = torch.tensor([[2.0, 2.0]] * 3 + [[50.0, -9.0]]).double()
    median = geometric_median(majority, majority.mean(dim=0), scale=10.0)
    assert median.numpy() == pytest.approx(np.array([2.0, 2.0]), abs=1e-3)


class Recorder(SilentWatch):
    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.kept: list[dict[str, Any]] = []

    def record(self, event: str, **values: Any) -> None:
        self.kept.append({"event": event, **values})

    def progress(self, done: int, total: int, **values: float) -> None:
        assert values["loss"] > 0
        self.seen.append((done, total))


def test_progress_is_told_after_every_epoch(train_features: Tensor, tiny: SAESettings) -> None:
    watch = Recorder()
    sae = fit_sae(train_features, tiny.replace(epochs=3), watch=watch)
    assert watch.seen == [(1, 3), (2, 3), (3, 3)]
    assert watch.kept == [
        {"event": "epoch", "of": "sae", "form": "dense", **readings} for readings in sae.history
    ]
    assert sae.history[2].keys() == {"epoch", "loss", "aux_loss", "dead"}


class PauseAlways(SilentWatch):
    def should_pause(self) -> bool:
        return True


def same_bits(one: SAE, other: SAE) -> bool:
    states = one.state_dict(), other.state_dict()
    same = all(torch.equal(states[1][name], tensor) for name, tensor in states[0].items())
    return same and one.history == other.history and one.trained_on == other.trained_on


def test_a_training_paused_after_every_step_has_the_bits_of_one_that_was_not(
    train_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    """Unequal batches, dead latents and the auxiliary loss included."""
    settings = tiny.replace(n_latents=60, k=1, dead_after=200, epochs=3, batch_size=170)
    whole = fit_sae(train_features, settings)
    assert whole.history[-1]["aux_loss"] > 0
    for _ in range(3 * 4):
        with pytest.raises(Paused):
            fit_sae(train_features, settings, checkpoint=tmp_path / "sae", watch=PauseAlways())
    resumed = fit_sae(train_features, settings, checkpoint=tmp_path / "sae", watch=PauseAlways())
    assert same_bits(resumed, whole)
    changed = fit_sae(train_features, settings, seed=1)
    assert not same_bits(changed, whole)


def test_a_training_killed_between_checkpoints_goes_on_from_the_last(
    train_features: Tensor, tiny: SAESettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    monkeypatch.setattr(checkpoints, "SAVES_BETWEEN", 0.0)
    settings = tiny.replace(epochs=4)

    class Killed(SilentWatch):
        def progress(self, done: int, total: int, **values: float) -> None:
            if done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_sae(train_features, settings, checkpoint=tmp_path, watch=Killed())
    steps_taken = int(max(path.name for path in tmp_path.iterdir()))
    assert steps_taken == 3 * 6 - 1
    assert same_bits(
        fit_sae(train_features, settings, checkpoint=tmp_path), fit_sae(train_features, settings)
    )
    # A watch that wants to pause has nothing to pause at without a checkpoint.
    assert same_bits(
        fit_sae(train_features, settings, watch=PauseAlways()), fit_sae(train_features, settings)
    )


def test_a_checkpoint_of_another_training_is_refused(
    train_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    with pytest.raises(Paused):
        fit_sae(train_features, tiny, checkpoint=tmp_path, watch=PauseAlways())
    for features, settings, seed in (
        (train_features + 1, tiny, 0),
        (train_features, tiny.replace(k=5), 0),
        (train_features, tiny, 1),
    ):
        with pytest.raises(InputError, match="other settings, seed or data"):
            fit_sae(features, settings, seed=seed, checkpoint=tmp_path)

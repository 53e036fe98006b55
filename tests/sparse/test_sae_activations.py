"""What is particular to an activation, a schedule, prefixes, early stopping; and a planted dictionary."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError, Paused
from monosem.core.progress import SilentWatch
from monosem.core.seeding import torch_stream
from monosem.sparse import activations
from monosem.sparse.batch_codes import DenseCodes, SparseCodes
from monosem.sparse.evaluate import fvu, sae_quality
from monosem.sparse.initialise import initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae, fit_saes
from monosem.sparse.trainer import Trainer

EVERY = pytest.mark.parametrize("activation", ["topk", "batch_topk", "jump_relu", "relu"])


@EVERY
@pytest.mark.parametrize("prefixes", [(), (6, 12)])
def test_each_explains_held_out_features_with_about_as_many_latents_as_asked(
    train_features: Tensor,
    test_features: Tensor,
    tiny: SAESettings,
    activation: str,
    prefixes: tuple[int, ...],
) -> None:
    settings = tiny.replace(activation=activation, prefixes=prefixes, epochs=60)
    sae = fit_sae(train_features, settings)
    quality = sae_quality(sae, test_features, mean=train_features.mean(dim=0))
    assert quality.fvu < 0.35
    if activation in ("batch_topk", "jump_relu"):
        assert quality.l0 == pytest.approx(4, rel=0.3)


@EVERY
def test_codes_in_use_are_the_same_in_both_forms_and_for_rows_alone(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings, activation: str
) -> None:
    sae = fit_sae(train_features, tiny.replace(activation=activation, epochs=5))
    dense = sae.encode(test_features)
    assert torch.equal(sae.encode_sparse(test_features)[:], dense)
    alone = torch.cat([sae.encode(row[None]) for row in test_features])
    torch.testing.assert_close(alone, dense, rtol=1e-4, atol=1e-4)
    rebuilt, codes = sae.reconstruct(test_features)
    torch.testing.assert_close(rebuilt, sae(test_features), rtol=1e-4, atol=1e-4)
    assert torch.equal(codes.active_counts(), (dense > 0).sum(dim=0))


@EVERY
def test_an_sae_of_each_comes_back_from_disk(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings, activation: str, tmp_path: Path
) -> None:
    sae = fit_sae(train_features, tiny.replace(activation=activation, epochs=2))
    sae.save(tmp_path / "sae")
    assert torch.equal(SAE.load(tmp_path / "sae").encode(test_features), sae.encode(test_features))


def test_matryoshka_prefixes_reconstruct_by_themselves(train_features: Tensor, tiny: SAESettings) -> None:
    """The first latents alone explain more than those of an SAE that was not asked for it."""

    def of_the_first(sae: SAE) -> float:
        codes = sae.encode(train_features)
        codes[:, 8:] = 0
        return float((train_features - sae.decode(codes)).square().sum())

    plain = fit_sae(train_features, tiny)
    nested = fit_sae(train_features, tiny.replace(prefixes=(8,)))
    assert of_the_first(nested) < 0.8 * of_the_first(plain)
    with pytest.raises(ValueError, match=r"`prefixes` must rise: \[2, 8\]"):
        tiny.replace(prefixes=(8, 2))


def test_k_goes_straight_from_its_start_to_its_end() -> None:
    settings = SAESettings(k=4, k_start=24, k_warmup=0.5)
    assert [settings.k_at(step, 20, 4) for step in (0, 5, 10, 19)] == [24, 14, 4, 4]
    assert SAESettings(k=4).k_at(0, 20, 4) == 4


def test_a_schedule_of_k_changes_the_training_and_not_the_codes(
    train_features: Tensor, tiny: SAESettings
) -> None:
    sae = fit_sae(train_features, tiny.replace(k_start=20))
    assert int((sae.encode(train_features) > 0).sum(dim=1).max()) == 4
    assert not torch.equal(sae.decoder, fit_sae(train_features, tiny).decoder)


def test_rates_fall_with_the_root_of_the_width() -> None:
    settings = SAESettings()
    assert settings.rate(400) == pytest.approx(0.1 / 20)
    assert settings.rate(1600) == pytest.approx(settings.rate(400) / 2)
    assert settings.replace(lr=0.3).rate(400) == 0.3


@pytest.mark.parametrize("activation", ["topk", "jump_relu"])
def test_both_forms_of_products_train_the_same_sae(
    train_features: Tensor, tiny: SAESettings, activation: str
) -> None:
    settings = tiny.replace(activation=activation, epochs=3, dead_after=200, n_latents=60, prefixes=(10,))
    dense, sparse = (fit_sae(train_features, settings.replace(products=form)) for form in ("dense", "sparse"))
    for name, expected in dense.state_dict().items():
        torch.testing.assert_close(sparse.state_dict()[name], expected, rtol=1e-3, atol=1e-3, msg=name)


def test_saes_trained_together_are_those_trained_alone(train_features: Tensor, tiny: SAESettings) -> None:
    variants = [tiny.replace(epochs=2), tiny.replace(epochs=2, n_latents=40, k=2, activation="batch_topk")]
    together = fit_saes(train_features, variants)
    for sae, settings in zip(together, variants, strict=True):
        alone = fit_sae(train_features, settings)
        for name, expected in alone.state_dict().items():
            assert torch.equal(sae.state_dict()[name], expected), name
    with pytest.raises(InputError, match=r"sae\.epochs: SAEs that are trained together have one"):
        fit_saes(train_features, [tiny, tiny.replace(epochs=2)])


def test_first_dictionaries_differ_and_batches_do_not(
    train_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    settings = tiny.replace(epochs=2)
    usual, other = fit_saes(train_features, [settings] * 2, init_seeds=[0, 5])
    assert torch.equal(usual.decoder, fit_sae(train_features, settings).decoder)
    sae, start = SAE(12, settings), starting_point(train_features, settings)
    initialise(sae, start, seed=5)
    trainer = Trainer(sae, start.variance, total=12)
    for epoch in range(2):
        order = torch.randperm(600, generator=torch_stream(0, "sae", "order", epoch))
        for rows in order.tensor_split(6):
            trainer.step(train_features[rows])
    assert torch.equal(other.decoder, sae.decoder)
    with pytest.raises(Paused):
        fit_saes(train_features, [settings] * 2, init_seeds=[0, 5], checkpoint=tmp_path, watch=PauseAlways())
    for seeds in ([0, 6], None):
        with pytest.raises(InputError, match="other settings, seed or data"):
            fit_saes(train_features, [settings] * 2, init_seeds=seeds, checkpoint=tmp_path)


class PauseAlways(SilentWatch):
    def should_pause(self) -> bool:
        return True


def test_training_ends_when_held_out_features_are_explained_no_better(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    # So high a rate that the first epochs are the best ones by far.
    settings = tiny.replace(lr=3.0, warmup=0.0, patience=2, epochs=30)
    sae = fit_sae(train_features, settings, held_out=test_features)
    values = [readings["fvu"] for readings in sae.history]
    assert len(values) < 30
    assert min(values[:-2]) <= min(values[-2:])
    mean = train_features.mean(dim=0)
    assert fvu(sae, test_features, mean) == pytest.approx(min(values), rel=1e-6)
    paused = None
    while paused is None:
        try:
            paused = fit_sae(
                train_features, settings, held_out=test_features, checkpoint=tmp_path, watch=PauseAlways()
            )
        except Paused:
            continue
    assert paused.history == sae.history
    assert torch.equal(paused.decoder, sae.decoder)
    with pytest.raises(InputError, match=r"sae\.patience needs held-out features"):
        fit_sae(train_features, settings)


def test_batch_topk_holds_the_largest_of_the_batch() -> None:
    pre = torch.tensor([[5.0, 4.0, 3.0], [-1.0, 0.5, 2.0]])
    sae = SAE(3, SAESettings(n_latents=3, k=2, activation="batch_topk"))
    for form in (DenseCodes, SparseCodes):
        held = sae.activation.held(form, pre, 2, sae.threshold)
        assert sorted(held.values[held.values > 0].tolist()) == [2, 3, 4, 5]
        before = sae.threshold.clone()
        sae.activation.follow(held, sae.threshold)
        assert torch.allclose(sae.threshold, before + 0.05 * (2 - before))


@pytest.mark.parametrize("at_once", [2**22, 600 * 7])
def test_thresholds_begin_where_k_latents_are_active(
    train_features: Tensor, tiny: SAESettings, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On average over all latents, or in each of them equally often, by however many outputs at once."""
    monkeypatch.setattr(activations, "_OUTPUTS_AT_ONCE", at_once)
    start = starting_point(train_features, tiny)
    for activation in ("batch_topk", "jump_relu"):
        sae = SAE(12, tiny.replace(activation=activation))
        initialise(sae, start, seed=0)
        active = (sae.pre_activations(start.sample) >= sae.threshold).double()
        part = activation == "batch_topk" and at_once < 2**22
        assert float(active.sum(dim=1).mean()) == pytest.approx(4, rel=0.1 if part else 0.01)
        of_each = active.mean(dim=0)
        # The sample at the threshold itself may be rounded to either side.
        assert bool(((of_each - 4 / 24).abs() < 1.5 / 600).all()) == (activation == "jump_relu")


def test_thresholds_of_dead_latents_fall_and_none_below_zero() -> None:
    jump_relu = SAE(3, SAESettings(n_latents=4, k=2, activation="jump_relu")).activation
    threshold = torch.tensor([1.0, 2.0, -0.5, 0.0])
    jump_relu.settle(threshold, torch.tensor([True, False, False, True]))
    torch.testing.assert_close(threshold, torch.tensor([0.9, 2.0, 0.0, 0.0]))


def test_a_latent_whose_threshold_nothing_comes_near_lives_again(
    train_features: Tensor, tiny: SAESettings
) -> None:
    """No gradient would reach that threshold, whatever its latent learns from the residual."""
    settings = tiny.replace(activation="jump_relu", dead_after=600)
    sae, start = SAE(12, settings), starting_point(train_features, settings)
    initialise(sae, start, seed=0)
    sae.threshold[:8] = 50.0
    trainer = Trainer(sae, start.variance, None)
    for _ in range(20):
        for rows in train_features.split(100):
            trainer.step(rows)
    assert int(sae.active_counts(train_features)[:8].min()) > 0


def test_quality_in_closed_form() -> None:
    """An SAE that keeps the positive part of each column, and the spread about another mean."""
    x = torch.tensor([[3.0, -1.0], [-2.0, 4.0], [1.0, 1.0], [0.0, 0.0]])
    sae = SAE(2, SAESettings(n_latents=3, k=2, input_norm="none"))
    sae.encoder.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]))
    sae.decoder.copy_(sae.encoder)
    mean = torch.tensor([0.5, 0.5])
    quality = sae_quality(
        sae, x, mean=mean, downstream=lambda features: float(len(list(features_rows(features))))
    )
    rebuilt, centred = x.relu(), x - mean
    spread, error = centred.square().sum(), (x - rebuilt).square().sum()
    assert quality.fvu == pytest.approx(float(error / spread))
    assert quality.fvu_normalised == quality.fvu
    variances = (x - rebuilt).var(dim=0, correction=0).sum() / x.var(dim=0, correction=0).sum()
    assert quality.explained_variance == pytest.approx(1 - float(variances))
    assert quality.l0 == pytest.approx(1.0)
    assert quality.dead == pytest.approx(1 / 3)
    cosines = torch.nn.functional.cosine_similarity(centred, rebuilt - mean, dim=1)
    assert quality.cosine == pytest.approx(float(cosines.mean()), abs=1e-6)
    assert quality.downstream == 1


def features_rows(features: Any) -> Any:
    return (
        features if isinstance(features, Tensor) else (row for _, block in features.blocks() for row in block)
    )


def test_a_score_survives_on_the_reconstruction_as_far_as_it_does(
    trained: SAE, test_features: Tensor
) -> None:
    def energy(features: Any) -> float:
        return float(sum((torch.as_tensor(row) ** 2).sum() for row in features_rows(features)))

    quality = sae_quality(trained, test_features, downstream=energy)
    expected = trained(test_features).square().sum() / test_features.square().sum()
    assert quality.downstream == pytest.approx(float(expected), rel=1e-4)


def test_layer_norm_has_an_fvu_of_its_own(train_features: Tensor, tiny: SAESettings) -> None:
    sae = fit_sae(train_features, tiny.replace(input_norm="layer", epochs=5))
    quality = sae_quality(sae, train_features)
    z = sae.normalise(train_features)
    z_hat = sae.normalise(sae(train_features), like=train_features)
    expected = (z - z_hat).square().sum() / (z - z.mean(dim=0)).square().sum()
    assert quality.fvu_normalised == pytest.approx(float(expected), rel=1e-4)
    assert quality.fvu_normalised != pytest.approx(quality.fvu, rel=1e-3)


def test_a_checkpoint_knows_the_features_it_watched(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings, tmp_path: Path
) -> None:
    settings = tiny.replace(patience=2)
    with pytest.raises(Paused):
        fit_sae(train_features, settings, held_out=test_features, checkpoint=tmp_path, watch=PauseAlways())
    with pytest.raises(InputError, match="other settings, seed or data"):
        fit_sae(train_features, settings, held_out=test_features + 1, checkpoint=tmp_path)


def test_an_sae_that_comes_apart_ends_the_training_or_leaves_it_to_the_others(
    train_features: Tensor, tiny: SAESettings
) -> None:
    apart, whole = tiny.replace(lr=1e30, epochs=8), tiny.replace(epochs=8)
    with pytest.raises(
        InputError, match=r"sae\.lr: the training diverged at a learning rate of 1e\+30; lower it"
    ):
        fit_sae(train_features, apart)
    notices: list[str] = []

    class Heard(SilentWatch):
        def notice(self, message: str) -> None:
            notices.append(message)

    broken, fine = fit_saes(train_features, [apart, whole], watch=Heard())
    assert len(broken.history) < 8
    assert notices == ["an SAE diverged in epoch 1, at a learning rate of 1e+30 (sae.lr)"]
    assert torch.equal(fine.decoder, fit_sae(train_features, whole).decoder)


def test_what_comes_apart_later_is_not_kept(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best SAE of the epochs before is."""
    steps = Trainer.step

    def step(self: Trainer, rows: Tensor) -> None:
        steps(self, rows)
        if self.done > 15:
            self.sae.encoder.fill_(torch.nan)

    monkeypatch.setattr(Trainer, "step", step)
    settings = tiny.replace(patience=2, epochs=9)
    sae = fit_sae(train_features, settings, held_out=test_features)
    assert sae.encoder.isfinite().all()
    assert len(sae.history) == 4
    best = min(readings["fvu"] for readings in sae.history[:2])
    assert fvu(sae, test_features, train_features.mean(dim=0)) == pytest.approx(best, rel=1e-6)


def test_no_sae_is_kept_whose_k_was_on_its_way(
    train_features: Tensor, test_features: Tensor, tiny: SAESettings
) -> None:
    """Of 12 instead of 4 active latents it explains more, and is not what was asked for."""
    settings = tiny.replace(
        activation="batch_topk", k_start=12, k_warmup=0.5, patience=3, epochs=24, n_latents=24
    )
    sae = fit_sae(train_features, settings, held_out=test_features)
    values = [readings["fvu"] for readings in sae.history]
    assert len(values) > 14
    kept = fvu(sae, test_features, train_features.mean(dim=0))
    assert kept == pytest.approx(min(values[12:]), rel=1e-6)
    assert min(values[:12]) < kept
    assert sae_quality(sae, test_features).l0 == pytest.approx(4, rel=0.3)

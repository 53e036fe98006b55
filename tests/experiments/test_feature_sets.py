import pytest
import torch

from monosem.data.codes import Codes
from monosem.encoders.backbones import EncoderSettings, OutputSettings, build_encoder
from monosem.experiments.corrupted_tests import CorruptedTest
from monosem.experiments.feature_sets import FEATURE_SETS, FeatureBank, Outputs, sources
from monosem.measures.geometry import effective_dimension, l0
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae

D = 12


@pytest.fixture(scope="module")
def outputs():
    random = torch.Generator().manual_seed(0)
    stretch = torch.linspace(2.0, 0.2, D)

    def draw(n):
        return torch.randn(n, D, generator=random) * stretch + 0.3

    def version(z):
        return CorruptedTest("input-noise-gaussian", 0.1, 0, torch.zeros(len(z)).long(), lambda: z)

    return {name: Outputs(draw(200), draw(50), [version(draw(50).half())]) for name in ("simclr", "ncl")}


@pytest.fixture(scope="module")
def bank(outputs):
    settings = EncoderSettings(backbone="small_conv", width=2, projector_hidden=4, projector_out=D)
    ncl = build_encoder(settings, 1, seed=0, output=OutputSettings(nonlinearity="rep_relu")).eval()
    sae = fit_sae(outputs["simclr"].train, SAESettings(n_latents=16, k=3, epochs=5, batch_size=50))
    return FeatureBank(outputs.__getitem__, lambda: ncl, lambda: sae, seed=0)


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_every_set_covers_training_test_and_noisy_images(bank, outputs, name):
    made = bank.make(name)
    parts = (made.train, made.test, *(version.features() for version in made.corrupted))
    assert [len(part) for part in parts] == [200, 50, 50]
    assert len({part.shape[1] for part in parts}) == 1
    assert all(part.dtype == torch.float32 and part[:].isfinite().all() for part in parts)
    # A transform is fitted once, on training images: test rows come out the same alone.
    torch.testing.assert_close(bank._transform(name)(bank._source(name).test[:7])[:], made.test[:7])


def test_the_methods_are_what_their_names_say(bank, outputs):
    torch.testing.assert_close(bank.make("simclr").train, outputs["simclr"].train)
    torch.testing.assert_close(bank.make("ncl").train, outputs["ncl"].train.relu())
    torch.testing.assert_close(bank.make("ncl-before-relu").train, outputs["ncl"].train)
    codes = bank.make("sae").train[:]
    assert (codes >= 0).all()
    assert (codes > 0).sum(dim=1).max() <= 3
    torch.testing.assert_close(bank.make("sae-reconstruction").train, bank.sae().decode(codes))


def test_sets_of_few_active_dimensions_are_held_sparse(bank, outputs):
    sparse = {name for name in FEATURE_SETS if isinstance(bank.make(name).train, Codes)}
    assert sparse == {"sae", "random-topk-like-sae"}  # half of what NCL puts out here is active
    made, source = bank.make("sae"), outputs["simclr"]
    assert torch.equal(made.train[:], bank.sae().encode(source.train))
    assert torch.equal(made.corrupted[0].features()[:], bank.sae().encode(source.corrupted[0].features()))


@pytest.mark.parametrize("name", FEATURE_SETS)
def test_a_set_reads_its_sources_all_of_them_and_no_others(bank, outputs, name):
    """What a stage's key leaves out must not reach its output."""
    read = set()

    def note(source, value):
        read.add(source)
        return value

    noting = FeatureBank(
        lambda source: note(source, outputs[source]),
        lambda: note("ncl", bank._ncl()),
        lambda: note("sae", bank.sae()),
        seed=0,
    )
    noting.make(name)
    assert read == sources(name)


def test_the_baseline_too_has_a_rotation(bank):
    rotated, dense = bank.make("rotated-simclr").test, bank.make("simclr").test
    torch.testing.assert_close(rotated @ rotated.T, dense @ dense.T, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rotated, dense, atol=0.1)
    assert sources("rotated-simclr") == {"simclr"}


@pytest.mark.parametrize("method", ["ncl", "sae"])
def test_each_control_keeps_one_ingredient_and_drops_another(bank, method):
    mono, dense = bank.make(method).train[:], bank.make("simclr").train
    rotated = bank.make(f"rotated-{method}").train
    torch.testing.assert_close(rotated @ rotated.T, mono @ mono.T, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(rotated, mono, atol=0.1)

    matched = bank.make(f"spectrum-of-{method}").train
    wanted = torch.linalg.svdvals(mono - mono.mean(dim=0))[:D]
    torch.testing.assert_close(
        torch.linalg.svdvals(matched - matched.mean(dim=0)), wanted, rtol=1e-3, atol=1e-2
    )
    assert effective_dimension(matched) != pytest.approx(effective_dimension(dense), rel=0.02)

    codes = bank.make(f"random-topk-like-{method}").train
    assert codes.shape == mono.shape
    # Among the k largest of few random products some are negative, and cut.
    assert 0.7 * l0(mono) <= l0(codes) <= round(l0(mono))
    assert bank.make(f"pca-l0-of-{method}").train.shape[1] == min(D, round(l0(mono)))
    assert bank.make(f"pca-dim-of-{method}").train.shape[1] == min(D, round(effective_dimension(mono)))

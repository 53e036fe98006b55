import pytest
import torch

from monosem.core.artifacts import fingerprint_arrays
from monosem.core.errors import InputError
from monosem.data.datasets import ImageDataset
from monosem.encoders.backbones import EncoderSettings, build_encoder
from monosem.encoders.embed import embed, embed_images

SMALL = EncoderSettings(backbone="small_conv", width=4, projector_hidden=16, projector_out=6)


def test_features_equal_a_loop_over_single_images(few_digits: ImageDataset) -> None:
    encoder = build_encoder(SMALL, 1, seed=0)
    mean, std = few_digits.mean, few_digits.std
    fast = {
        layer: embed_images(encoder, few_digits.images[:10], mean, std, layer=layer, batch_size=4)
        for layer in ("projector", "backbone")
    }
    encoder.eval()
    for row, image in enumerate(few_digits.images[:10]):
        pixels = (image[None].float() / 255 - mean[0]) / std[0]
        with torch.no_grad():
            torch.testing.assert_close(fast["backbone"][row], encoder.backbone(pixels)[0])
            torch.testing.assert_close(fast["projector"][row], encoder.projector(encoder.backbone(pixels))[0])


def test_float_images_are_on_the_scale_of_one(few_digits: ImageDataset) -> None:
    encoder = build_encoder(SMALL, 1, seed=0)
    whole, scaled = (
        embed_images(encoder, images, few_digits.mean, few_digits.std)
        for images in (few_digits.images, few_digits.images.float() / 255)
    )
    assert torch.equal(whole, scaled)


def test_the_encoder_comes_back_as_it_was(few_digits: ImageDataset) -> None:
    encoder = build_encoder(SMALL, 1, seed=0).train()
    before = fingerprint_arrays(*encoder.state_dict().values())
    embed(few_digits, encoder)
    assert fingerprint_arrays(*encoder.state_dict().values()) == before
    assert encoder.training
    encoder(few_digits.images[:4].float())
    assert fingerprint_arrays(*encoder.state_dict().values()) != before  # what the hash would have caught


def test_embed_keeps_labels_ids_and_order(few_digits: ImageDataset) -> None:
    encoder = build_encoder(SMALL, 1, seed=0)
    features = embed(few_digits, encoder)
    expected = embed_images(encoder, few_digits.images, few_digits.mean, few_digits.std)
    assert torch.equal(torch.from_numpy(features.dense()), expected)
    assert (features.labels == few_digits.labels.numpy()).all()
    assert (features.ids == few_digits.ids.numpy()).all()


def test_images_of_other_channels_are_refused() -> None:
    with pytest.raises(InputError, match=r"takes images \[N, 1, H, W\]"):
        embed_images(build_encoder(SMALL, 1, seed=0), torch.zeros(2, 3, 8, 8), (0.5,), (0.5,))

import pytest
import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.settings import parse
from monosem.encoders.backbones import EncoderSettings, build_encoder
from monosem.encoders.vit import VisionTransformer

SMALL = EncoderSettings(backbone="vit_tiny", width=4, image_size=8, projector_hidden=16, projector_out=6)


def images(n: int, channels: int, size: int) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(0))


def naive_layer_norm(x: Tensor, gain: Tensor, shift: Tensor) -> Tensor:
    return (x - x.mean()) / (x.var(unbiased=False) + 1e-6).sqrt() * gain + shift


def naive_vit(vit: VisionTransformer, image: Tensor, patch: int, heads: int) -> Tensor:
    """One image [C, S, S], patch by patch, head by head and token by token."""
    weights = {name.removesuffix(".weight"): tensor for name, tensor in vit.state_dict().items()}
    size, tokens = image.shape[1], [weights["class_token"]]
    for top in range(0, size, patch):
        for left in range(0, size, patch):
            pixels = image[:, top : top + patch, left : left + patch]
            kernels = weights["patches"]
            tokens.append((kernels * pixels).sum(dim=(1, 2, 3)) + weights["patches.bias"])
    tokens = [token + position for token, position in zip(tokens, weights["positions"], strict=True)]
    dim = len(tokens[0])
    for block in range(12):

        def affine(name: str, x: Tensor, block: int = block) -> Tensor:
            return weights[f"blocks.{block}.{name}"] @ x + weights[f"blocks.{block}.{name}.bias"]

        def norm(name: str, x: Tensor, block: int = block) -> Tensor:
            return naive_layer_norm(
                x, weights[f"blocks.{block}.{name}"], weights[f"blocks.{block}.{name}.bias"]
            )

        read = [affine("queries_keys_values", norm("attention_norm", token)).split(dim) for token in tokens]
        attended = []
        for query, _, _ in read:
            mixed = []
            for head in range(heads):
                own = slice(head * dim // heads, (head + 1) * dim // heads)
                scores = torch.stack([query[own] @ key[own] for _, key, _ in read]) / (dim // heads) ** 0.5
                shares = scores.exp() / scores.exp().sum()
                mixed.append(
                    sum(share * value[own] for share, (_, _, value) in zip(shares, read, strict=True))
                )
            attended.append(affine("heads_out", torch.cat(mixed)))
        tokens = [token + more for token, more in zip(tokens, attended, strict=True)]
        hidden = [affine("mlp.1", norm("mlp.0", token)) for token in tokens]
        hidden = [0.5 * h * (1 + torch.erf(h / 2**0.5)) for h in hidden]
        tokens = [token + affine("mlp.3", h) for token, h in zip(tokens, hidden, strict=True)]
    return naive_layer_norm(tokens[0], weights["norm"], weights["norm.bias"])


@pytest.mark.parametrize("patch_size", [2, 4])
def test_features_equal_a_loop_over_tokens_and_heads(patch_size: int) -> None:
    encoder = build_encoder(SMALL.replace(patch_size=patch_size), 3, seed=0).double()
    with torch.no_grad():
        for parameter in encoder.backbone.parameters():
            # Small at the start: every part must matter before it can be seen to be right.
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.3)
        batch = images(2, 3, 8).double()
        fast = encoder.backbone_features(batch)
        for features, image in zip(fast, batch, strict=True):
            naive = naive_vit(encoder.backbone, image, patch_size, heads=3)
            torch.testing.assert_close(features, naive, rtol=1e-9, atol=1e-11)


def test_vit_ti_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        vit = VisionTransformer(224, 16, EncoderSettings().width, 3)
    assert sum(parameter.numel() for parameter in vit.parameters()) == 5_524_416
    assert vit.out_dim == 192


def test_patches_at_other_places_and_other_images_give_other_features() -> None:
    encoder = build_encoder(SMALL, 1, seed=0)
    batch = images(1, 1, 8)
    one, other = (encoder.backbone_features(batch)[0] for batch in (batch, batch.flip(3)))
    assert (one - other).abs().max() > 1e-4


def test_initial_weights_are_truncated_at_two_deviations_and_come_from_the_seed() -> None:
    state = torch.get_rng_state()
    one, same, other = (build_encoder(SMALL.replace(width=32), 3, seed).backbone for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    weight = one.blocks[3].queries_keys_values.weight
    assert weight.abs().max() <= 0.04
    assert weight.std().item() == pytest.approx(0.02 * 0.8796, rel=0.02)  # what the cut leaves of 0.02
    assert one.positions.std().item() == pytest.approx(0.02 * 0.8796, rel=0.1)
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name]), name
        if name.endswith("bias"):
            assert not tensor.any()
        elif "norm" in name or name.endswith("mlp.0.weight"):
            assert (tensor == 1).all()
        else:
            assert not torch.equal(tensor, other.state_dict()[name]), name


@pytest.mark.parametrize(("size", "remedy"), [((16, 16), "set it to their size"), ((8, 16), "square images")])
def test_images_of_another_size_are_refused_by_name(size: tuple[int, int], remedy: str) -> None:
    with pytest.raises(InputError, match=rf"encoder\.image_size is 8, these images are .* {remedy}"):
        build_encoder(SMALL, 3, seed=0)(torch.zeros(2, 3, *size))


def test_an_image_size_of_broken_patches_is_refused() -> None:
    with pytest.raises(InputError, match="image_size 30 is no multiple of patch_size 4"):
        parse(EncoderSettings, {"backbone": "vit_tiny", "image_size": 30}, "recipe")
    parse(EncoderSettings, {"backbone": "resnet18", "image_size": 30}, "recipe")

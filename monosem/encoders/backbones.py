"""Convolutional encoders with a two-layer projector: images -> backbone features -> projector features."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from monosem.core.artifacts import (
    atomic_folder,
    load_tensors,
    read_json,
    save_tensors,
    verify_folder,
    write_json_atomic,
)
from monosem.core.errors import InputError
from monosem.core.nonlinearities import NONLINEARITIES, NonlinearityName
from monosem.core.seeding import torch_stream
from monosem.core.settings import Settings, parse
from monosem.encoders.contrastive_loss import NonnegativeOn, unit_rows

BackboneName = Literal["small_conv", "resnet18"]
StemName = Literal["cifar", "strided", "imagenet"]


class EncoderSettings(Settings):
    """Shape of an encoder. The backbone puts out 8 * width features, the projector `projector_out`."""

    backbone: BackboneName = "resnet18"
    stem: StemName = "cifar"
    """cifar: 3x3, stride 1. strided: 3x3, stride 2. imagenet: 7x7, stride 2, then 3x3 max-pool, stride 2."""
    width: Annotated[int, Field(ge=1)] = 64
    """Channels after the stem; ResNet-18 proper has 64."""
    projector_hidden: Annotated[int, Field(ge=1)] = 16384
    projector_out: Annotated[int, Field(ge=1)] = 2048


class OutputSettings(Settings):
    """How non-negative features are made of projector outputs z; None: z itself (SimCLR)."""

    nonlinearity: NonlinearityName | None = None
    nonnegative_on: NonnegativeOn = "normalised"


class Encoder(nn.Module):
    """Backbone and projector (Linear, ReLU, Linear; A.1 of the paper), and what its features are."""

    def __init__(self, settings: EncoderSettings, in_channels: int, output: OutputSettings) -> None:
        super().__init__()
        self.settings = settings
        self.in_channels = in_channels
        self.output = output
        self.backbone = _BACKBONES[settings.backbone](settings, in_channels)
        self.projector = nn.Sequential(
            nn.Linear(8 * settings.width, settings.projector_hidden),
            nn.ReLU(inplace=True),
            nn.Linear(settings.projector_hidden, settings.projector_out),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> projector outputs z [N, projector_out]."""
        z: Tensor = self.projector(self.backbone(images))
        return z

    def backbone_features(self, images: Tensor) -> Tensor:
        """Normalised images [N, C, H, W] -> [N, 8 * width]."""
        features: Tensor = self.backbone(images)
        return features

    def features(self, z: Tensor) -> Tensor:
        """Projector outputs z [N, D] -> features [N, D] in the form that training compared.

        sigma(z) on raw outputs, |z| sigma(z / |z|) on normalised ones (equal for sigma(cz) = c sigma(z));
        z itself without a nonlinearity.
        """
        if self.output.nonlinearity is None:
            return z
        sigma = NONLINEARITIES[self.output.nonlinearity]
        if self.output.nonnegative_on == "raw":
            return sigma(z)
        length_N1: Tensor = torch.linalg.vector_norm(z, dim=1, keepdim=True)
        return length_N1 * sigma(unit_rows(z))


def build_encoder(
    settings: EncoderSettings, in_channels: int, seed: int, output: OutputSettings | None = None
) -> Encoder:
    """A fresh encoder on the CPU whose weights depend on the settings and the stream `init` of `seed` alone.

    Encoders of one seed that differ in `output` start from the same weights. Torch's global generator is
    neither used nor moved.
    """
    encoder = _empty_encoder(settings, in_channels, output or OutputSettings())
    generator = torch_stream(seed, "init")
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1.0 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.uniform_(module.bias, -bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return encoder


def save_encoder(path: Path, encoder: Encoder) -> None:
    """Write the encoder as a sealed folder: config.json and weights.safetensors."""
    with atomic_folder(path) as draft:
        config = {
            "encoder": encoder.settings.model_dump(mode="json"),
            "in_channels": encoder.in_channels,
            "output": encoder.output.model_dump(mode="json"),
        }
        write_json_atomic(draft / "config.json", config)
        save_tensors(draft / "weights.safetensors", encoder.state_dict())


def load_encoder(path: Path) -> Encoder:
    """Read an encoder that `save_encoder` wrote, onto the CPU, in evaluation mode.

    Raises:
        InputError: missing, damaged, or weights that do not fit the configuration exactly.
    """
    verify_folder(path)
    config = read_json(path / "config.json")
    encoder = _empty_encoder(
        parse(EncoderSettings, config["encoder"], f"{path}/config.json"),
        config["in_channels"],
        parse(OutputSettings, config["output"], f"{path}/config.json"),
    )
    try:
        encoder.load_state_dict(load_tensors(path / "weights.safetensors"))
    except RuntimeError as error:
        raise InputError(f"{path}: the weights do not fit config.json ({error})") from None
    return encoder.eval()


def _empty_encoder(settings: EncoderSettings, in_channels: int, output: OutputSettings) -> Encoder:
    # Built without memory first: torch's own initialisation would draw from the global generator.
    with torch.device("meta"):
        encoder = Encoder(settings, in_channels, output)
    return encoder.to_empty(device="cpu")


def _conv_norm(in_channels: int, out_channels: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _stem(name: StemName, in_channels: int, width: int) -> nn.Sequential:
    if name == "imagenet":
        return nn.Sequential(
            _conv_norm(in_channels, width, 7, 2), nn.ReLU(inplace=True), nn.MaxPool2d(3, stride=2, padding=1)
        )
    stride = 2 if name == "strided" else 1
    return nn.Sequential(_conv_norm(in_channels, width, 3, stride), nn.ReLU(inplace=True))


class _ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            _conv_norm(in_channels, out_channels, 3, stride),
            nn.ReLU(inplace=True),
            _conv_norm(out_channels, out_channels, 3, 1),
        )
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else _conv_norm(in_channels, out_channels, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.branch(x) + self.shortcut(x))


def _small_conv(settings: EncoderSettings, in_channels: int) -> nn.Sequential:
    """Stem and three 3x3 convolutions of stride 2 that double the channels, averaged over positions."""
    stages: list[nn.Module] = []
    for stage in range(3):
        channels = settings.width * 2**stage
        stages += [_conv_norm(channels, 2 * channels, 3, 2), nn.ReLU(inplace=True)]
    stem = _stem(settings.stem, in_channels, settings.width)
    return nn.Sequential(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _resnet18(settings: EncoderSettings, in_channels: int) -> nn.Sequential:
    """Stem and four stages of two residual blocks, averaged over positions."""
    width = settings.width
    stages: list[nn.Module] = [_ResidualBlock(width, width, 1), _ResidualBlock(width, width, 1)]
    for stage in range(3):
        channels = width * 2**stage
        stages += [_ResidualBlock(channels, 2 * channels, 2), _ResidualBlock(2 * channels, 2 * channels, 1)]
    return nn.Sequential(
        _stem(settings.stem, in_channels, width), *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )


_BACKBONES: dict[BackboneName, Callable[[EncoderSettings, int], nn.Sequential]] = {
    "small_conv": _small_conv,
    "resnet18": _resnet18,
}

import pytest

from monosem.data.datasets import DatasetSettings, ImageDataset, load_dataset
from monosem.data.views import ViewSettings
from monosem.encoders.backbones import EncoderSettings
from monosem.encoders.pretrain_settings import PretrainSettings


@pytest.fixture(scope="session")
def few_digits() -> ImageDataset:
    """256 real images of 8x8 pixels."""
    return load_dataset(DatasetSettings(name="digits", train_limit=256))[0]


@pytest.fixture(scope="session")
def tiny() -> PretrainSettings:
    """Settings of a pretraining that takes a fraction of a second."""
    return PretrainSettings(
        encoder=EncoderSettings(backbone="small_conv", width=8, projector_hidden=32, projector_out=32),
        epochs=4,
        batch_size=64,
        optimizer="adamw",
        lr_per_256=2e-2,
        warmup_epochs=1.0,
        views=ViewSettings(crop_scale=(0.4, 1.0), flip=0.0, jitter=0.0, blur=0.0),
    )

"""A recipe small enough for tests: real digits, real stages, a few seconds."""

import pytest

TINY = """\
title: Tiny digits
data: {name: digits, train_limit: 240, test_limit: 120}
n_encoders: 1
n_noise: 2
pretrain:
  encoder: {backbone: small_conv, width: 8, projector_hidden: 32, projector_out: 16}
  epochs: 6
  batch_size: 64
  optimizer: adamw
  lr_per_256: 1e-2
  warmup_epochs: 0.5
  views:
    {crop_scale: [0.6, 1.0], flip: 0, jitter: 0, grayscale: 0, blur: 0}
sae: {epochs: 3, batch_size: 64, k: 4}
published: {optimizer: lars, lr: 0.4, epochs: 2}
published_on: methods
tuned: {per_decade: 1}
label_noise: {levels: [0.4, 0.9]}
input_noise: {levels: [0.3]}
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The path of the recipe, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text(TINY)
    return "tiny.yaml"

"""What labels say of an encoder in training: for watching only, nothing here reaches its weights."""

import torch

from monosem.core.seeding import numpy_stream
from monosem.data.datasets import ImageDataset
from monosem.data.subsets import stratified_indices
from monosem.encoders.backbones import Encoder
from monosem.encoders.embed import embed_images
from monosem.measures.consistency import matched_monosemanticity
from monosem.measures.geometry import knn_accuracy

_SAMPLES = 6000
_NEIGHBOURS = 20


class LabelReadings:
    """kNN accuracy and matched monosemanticity on a fixed part of the training images.

    Args:
        train: the images; 6,000 of them at most are used, a sixth to ask and the others to answer.
        device: where the encoder works.
    """

    def __init__(self, train: ImageDataset, device: torch.device) -> None:
        rows = stratified_indices(train.labels.numpy(), _SAMPLES, numpy_stream(0, "watch"))
        self._some = train.take(numpy_stream(0, "watch", "order").permutation(rows))
        self._device = device

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """`knn_accuracy` and `matched_monosemanticity` of the encoder's features; it comes back as it was."""
        some = self._some
        z = embed_images(encoder, some.images, some.mean, some.std, device=self._device)
        features = encoder.features(z).detach()
        asking = len(features) // 6
        readings = {
            "matched_monosemanticity": matched_monosemanticity(
                features, some.labels, some.n_classes
            ).summary()["corrected_weighted"]
        }
        if asking and len(features) - asking >= _NEIGHBOURS:
            readings["knn_accuracy"] = knn_accuracy(
                features[asking:],
                some.labels[asking:],
                features[:asking],
                some.labels[:asking],
                some.n_classes,
                neighbours=_NEIGHBOURS,
            )
        return readings

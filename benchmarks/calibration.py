"""Are the statistics calibrated? Feature sets that do not differ are compared, through the probes themselves.

    python benchmarks/calibration.py [--comparisons 1000] [--workers 2] [--out docs/results/calibration.md]

Each replicate draws two encoders from one distribution (random ReLU features of the digits), corrupts the
labels, probes both sets under every noise level and draw, and takes the endpoint of a real run: the mean over
levels of the difference in test accuracy. Six replicates make a comparison. Whatever is called significant
here is called so by mistake; what is found once a known mean is added to the differences is the power.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monosem.core.artifacts import write_text_atomic
from monosem.core.seeding import stream_seed, torch_stream
from monosem.core.stats import paired_t, sign_flip_p
from monosem.data.datasets import DatasetSettings, load_dataset
from monosem.data.label_noise import corrupt_labels
from monosem.robust.probe import LinearProbes, ProbeSettings, train_probes
from monosem.robust.ridge import RidgePath, RidgeSettings

REPLICATES, LEVELS, DRAWS, N_CLASSES, DIM = 6, (0.2, 0.4, 0.6), 2, 10, 32
PLANTED = (0.0, 1.0, 2.0)
ALPHA = 0.05

REPORT = """# Calibration of the statistics

{comparisons} comparisons of {replicates} replicates between feature sets that do not differ: two encoders of
one distribution (random ReLU features of the digits, 32 dimensions, 200 training images), drawn anew for
every replicate, as is the label noise (20, 40 and 60 %, two draws). Each share is that of comparisons with
p < 0.05 before any correction.

Rows without a planted mean are false alarms: the t test should give 5 %, sign flips at most 3.1 %, because
with six replicates the smallest p they can reach is 2/64. The other rows are power: a mean of so many
standard deviations of the paired differences was added to them.

{table}

Made by `python benchmarks/calibration.py --comparisons {comparisons} --out docs/results/calibration.md`.
"""


def gradient_probes(features: Tensor, labels: Tensor, seed: int) -> LinearProbes:
    settings = ProbeSettings(epochs=10, batch_size=64, optimizer="lars", lr=0.4)
    return train_probes(features, labels, N_CLASSES, settings, seed)


def tuned_ridge(features: Tensor, labels: Tensor, seed: int) -> LinearProbes:
    fits = RidgePath.fit(features).solve(labels, N_CLASSES, RidgeSettings(), seed)
    return fits.probes(fits.tuned())


PROTOCOLS: dict[str, Callable[[Tensor, Tensor, int], LinearProbes]] = {
    "published (gradient-trained)": gradient_probes,
    "tuned (ridge, leave-one-out)": tuned_ridge,
}


@cache
def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels [N, 64] in 0..1 and labels [N], for training and test."""
    train, test = load_dataset(DatasetSettings(name="digits", train_limit=200))
    pixels = [split.images.flatten(1).float() / 255 for split in (train, test)]
    return pixels[0], train.labels, pixels[1], test.labels


def difference(seed: int) -> list[float]:
    """One replicate: the endpoint's difference between two encoders of one kind, for each protocol."""
    train, train_labels, test, test_labels = digits()
    noisy = torch.stack(
        [
            corrupt_labels(train_labels, level, stream_seed(seed, "noise", draw), N_CLASSES).labels
            for level in LEVELS
            for draw in range(DRAWS)
        ]
    )
    accuracies = []
    for side in ("a", "b"):
        weights = torch.randn(train.shape[1], DIM, generator=torch_stream(seed, "encoder", side))
        features, test_features = (train @ weights).relu(), (test @ weights).relu()
        accuracies.append(
            [
                (protocol(features, noisy, seed).predict(test_features) == test_labels).double().mean()
                for protocol in PROTOCOLS.values()
            ]
        )
    return [float(a - b) for a, b in zip(*accuracies, strict=True)]


def comparison(number: int) -> list[list[float]]:
    """The differences [replicates, protocols] of one comparison; every encoder and every noise is new."""
    torch.set_num_threads(1)
    return [difference(stream_seed(number, "calibration", replicate)) for replicate in range(REPLICATES)]


def table(differences: np.ndarray) -> Iterator[str]:
    """Markdown rows from differences [comparisons, replicates, protocols]."""
    yield "| Protocol | SD of a difference | Planted mean | Found by t | Found by sign flips |"
    yield "| --- | --- | --- | --- | --- |"
    for index, protocol in enumerate(PROTOCOLS):
        null = differences[:, :, index]
        deviation = null.std()
        for planted in PLANTED:
            shifted = null + planted * deviation
            t = np.mean([paired_t(d).p < ALPHA for d in shifted])
            flips = np.mean([(sign_flip_p(d) or 0.0) < ALPHA for d in shifted])
            name = f"{planted:g} SD" if planted else "none"
            yield (
                f"| {protocol} | {100 * deviation:.2f} points | {name} "
                f"| {100 * t:.1f} % | {100 * flips:.1f} % |"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comparisons", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with ProcessPoolExecutor(arguments.workers, mp_context=get_context("spawn")) as pool:
        differences = np.array(list(pool.map(comparison, range(arguments.comparisons), chunksize=10)))
    text = REPORT.format(
        comparisons=arguments.comparisons, replicates=REPLICATES, table="\n".join(table(differences))
    )
    print(text, end="")
    if arguments.out:
        write_text_atomic(arguments.out, text)


if __name__ == "__main__":
    main()

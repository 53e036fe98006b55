"""Batched probes against a plain torch loop over cached features, one probe at a time.

    python benchmarks/probes.py [--epochs 1] [--threads 2] [--repeats 5]

50 probes on 10,000 x 512 features, 100 classes, SGD with momentum, batch 256, nothing logged. Both sides
train the same probes on the same batches; the plain side is spared the scaling, which it gets ready-made.
Rounds alternate, so that a busy machine slows both sides alike; the medians are compared.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.robust.probe import FeatureScale, ProbeSettings, probe_batches, train_probes

N, D, K, P = 10_000, 512, 100, 50


def plain_loop(scaled: Tensor, labels: Tensor, settings: ProbeSettings) -> Tensor:
    """Weights [P, K, D] from an ordinary module, autograd and torch.optim.SGD."""
    weights = []
    for y in labels:
        probe = torch.nn.Linear(D, K, dtype=scaled.dtype)
        torch.nn.init.zeros_(probe.weight)
        torch.nn.init.zeros_(probe.bias)
        optimizer = torch.optim.SGD(probe.parameters(), lr=settings.lr, momentum=settings.momentum)
        for rows, _ in probe_batches(N, settings, seed=0):
            optimizer.zero_grad()
            F.cross_entropy(probe(scaled[rows]), y[rows]).backward()
            optimizer.step()
        weights.append(probe.weight.detach())
    return torch.stack(weights)


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator)
    labels = torch.randint(K, (P, N), generator=generator)
    settings = ProbeSettings(epochs=arguments.epochs, schedule="constant")
    scale = FeatureScale.fit(features)
    scaled = scale(features)

    plain, batched = [], []
    for _ in range(arguments.repeats):
        plain.append(seconds(lambda: plain_loop(scaled, labels, settings)))
        batched.append(seconds(lambda: train_probes(features, labels, K, settings, seed=0)))
    ratio = statistics.median(batched) / statistics.median(plain)
    print(f"{P} probes, {N} x {D}, {K} classes, {arguments.epochs} epoch(s), {arguments.threads} threads")
    for name, times in (("plain loop", plain), ("batched", batched)):
        print(f"{name:10}  median {statistics.median(times):6.2f} s   best {min(times):6.2f} s")
    print(f"batched / plain = {ratio:.2f} (medians)")

    double, few = features.double(), labels[:3]
    exact = FeatureScale.fit(double)
    probes = train_probes(double, few, K, settings, seed=0)
    difference = (probes.weight * exact.rms - plain_loop(exact(double), few, settings)).abs().max()
    print(f"largest difference of a weight in float64: {float(difference):.1e}")


if __name__ == "__main__":
    main()

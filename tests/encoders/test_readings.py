import math

import pytest
import torch

from monosem.encoders.readings import EpochReadings


def test_readings_equal_a_naive_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(10, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    for batch in batches:
        batch[:, 2] = 0.001  # next to constant: dead
        batch[0, 1] = 0.0
    readings = EpochReadings(4, torch.device("cpu"))
    readings.add(torch.tensor(5.0), None)
    for loss, batch in zip((1.0, 2.0, 4.0), batches, strict=True):
        readings.add(torch.tensor(loss), batch)
    summary = readings.summary(batch_size=5)

    units = [[row / row.norm() for row in batch] for batch in batches]
    pairs = [(batch[i], batch[i + 5]) for batch in units for i in range(5)]
    assert summary["loss"] == 3.0
    assert summary["chance"] == pytest.approx(math.log(9))
    assert summary["dead_share"] == 0.25
    distances = [float((first - second).square().sum()) for first, second in pairs]
    assert summary["alignment"] == pytest.approx(sum(distances) / len(distances))
    assert summary["active_dimensions"] == 3.0
    assert summary["sparsity"] == pytest.approx(3 / (3 * 10 * 4))
    potentials = [
        math.exp(-2 * float((batch[i] - batch[j]).square().sum()))
        for batch in units
        for i in range(5)
        for j in range(5)
        if i != j
    ]
    assert summary["uniformity"] == pytest.approx(math.log(sum(potentials) / len(potentials)))

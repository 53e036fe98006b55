import math

import pytest
import torch

from monosem.encoders.collapse import EpochReadings, explain_collapse


def test_readings_equal_a_naive_computation() -> None:
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randn(10, 4, generator=generator, dtype=torch.float64) for _ in range(3)]
    for batch in batches:
        batch[:, 2] = 0.001  # next to constant: dead
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


@pytest.mark.parametrize(
    ("loss", "dead", "late", "said"),
    [
        (3.0, 0.2, True, None),
        (4.8, 0.2, False, None),  # at chance, but it has hardly begun
        (4.8, 0.2, True, "still at chance"),
        (3.0, 0.99, False, "99% of the feature dimensions are dead"),
        (math.nan, 0.0, False, "the loss is nan"),
    ],
)
def test_what_is_wrong_is_said(loss: float, dead: float, late: bool, said: str | None) -> None:
    readings = {"loss": loss, "chance": math.log(127), "dead_share": dead}
    problem = explain_collapse(readings, trained_for_a_while=late, non_negative=True)
    assert problem is None if said is None else problem is not None and said in problem

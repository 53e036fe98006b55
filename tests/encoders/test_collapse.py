import math

import pytest

from monosem.encoders.collapse import explain_collapse


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

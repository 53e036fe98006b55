from collections.abc import Callable

import pytest

from monosem.sparse import form_choice
from monosem.sparse.form_choice import fastest, is_worth_timing


class Clock:
    """Time that passes only while a trial works."""

    now = 0.0

    def takes(self, *seconds: float) -> Callable[[], float]:
        """A trial whose runs take so long, one after the other."""
        runs = iter(seconds)

        def work() -> float:
            self.now += next(runs)
            return 0.0

        return work


@pytest.mark.parametrize(
    ("dense", "other", "expected"),
    [
        ((9.0, 1.0, 1.0), (9.0, 9.0, 0.8), "other"),
        ((9.0, 1.0, 1.0), (0.8, 9.0, 9.0), "other"),
        ((9.0, 1.0, 9.0), (0.95, 0.95, 0.95), "dense"),  # no clear difference
        ((1.0, 1.0, 1.0), (2.0, 2.0, 2.0), "dense"),
    ],
)
def test_the_best_run_decides_and_dense_is_left_for_a_clear_gain_only(
    dense: tuple[float, ...], other: tuple[float, ...], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(form_choice.time, "perf_counter", lambda: clock.now)
    assert fastest({"dense": clock.takes(*dense), "other": clock.takes(*other)}) == expected


def test_only_large_products_are_worth_a_look() -> None:
    assert is_worth_timing(256 * 2048 * 5000)
    assert not is_worth_timing(256 * 64 * 300)


def test_trials_take_turns() -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[[], float]:
        return lambda: float(order.append(name) is None)

    fastest({"dense": noted("dense"), "other": noted("other")})
    assert order == ["dense", "other"] * 3

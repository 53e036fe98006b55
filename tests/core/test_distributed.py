import pytest
import torch

from monosem.core.distributed import World, collected, gathered_rows, summed, this_world
from monosem.core.errors import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(("n", "size"), [(10, 3), (2, 4), (12, 4), (7, 1)])
def test_parts_are_disjoint_cover_everything_and_are_even(n: int, size: int) -> None:
    parts = [range(n)[World(rank, size, CPU).part(n)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_alone_every_exchange_returns_what_it_was_given() -> None:
    rows = torch.arange(6.0).view(3, 2).requires_grad_()
    world = this_world()
    assert (world.rank, world.size, world.is_main) == (0, 1, True)
    assert gathered_rows(rows) == (rows, 0)
    assert summed(rows) is rows
    assert collected(rows, 3, world) is rows
    assert world.agreed(True, False) == (True, False)


def test_alone_work_of_the_main_process_is_done_here_and_its_error_is_raised() -> None:
    def fail() -> int:
        raise InputError("refused")

    world = this_world()
    assert world.from_main(lambda: 3) == 3
    with pytest.raises(InputError, match="refused"):
        world.from_main(fail)

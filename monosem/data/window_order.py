"""In which order rows on disk are drawn: blocks at random, joined to windows, shuffled within each.

The rows are cut into blocks of neighbours, and the blocks laid out in random order. The line of rows this
makes is cut into batches, and these are dealt out to windows, so that no batch needs two of them; a block
that lies across a border is read in two parts. Within a window rows change places at random. All follows from
the seed and the numbers of epoch and window, so that any of them can be skipped.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from monosem.core.seeding import torch_stream

BLOCK_ROWS = 8192
BLOCKS_A_WINDOW = 32
"""At least so many blocks meet in a window, which is what mixes rows that were stored side by side."""


@dataclass(frozen=True)
class WindowOrder:
    """The order of `n_rows` rows in `n_batches` batches when at most `window_rows` are in memory at once.

    `window_rows` is at least as large as a batch.
    """

    n_rows: int
    n_batches: int
    window_rows: int
    seed: int

    @cached_property
    def n_windows(self) -> int:
        """How many windows an epoch has; they hold the same number of batches, or one less."""
        largest_batch = -(-self.n_rows // self.n_batches)
        return -(-self.n_batches // (self.window_rows // largest_batch))

    @cached_property
    def block_rows(self) -> int:
        """Rows of a block; the last one of the set may hold fewer."""
        return max(1, min(BLOCK_ROWS, self.window_rows // BLOCKS_A_WINDOW))

    @property
    def largest_window(self) -> int:
        """Rows of the window with the most of them."""
        first, end = self._ends(0)
        return end - first

    def window_of(self, batch: int) -> int:
        """The window that holds a batch."""
        return next(window for window in range(self.n_windows) if batch in self.batches(window))

    def batches(self, window: int) -> range:
        """The batches of a window."""
        return even_part(self.n_batches, self.n_windows, window)

    def positions(self, batch: int) -> range:
        """Where a batch lies in the line of all rows."""
        return even_part(self.n_rows, self.n_batches, batch)

    def pieces(self, epoch: int, window: int) -> list[range]:
        """The rows of a window, as stretches of neighbours in the order in which they are laid out."""
        n_blocks = -(-self.n_rows // self.block_rows)
        order = torch.randperm(n_blocks, generator=torch_stream(self.seed, "sae", "order", epoch)).tolist()
        first, end = self._ends(window)
        pieces, position = [], 0
        for block in order:
            start = block * self.block_rows
            n = min(self.block_rows, self.n_rows - start)
            here = range(max(first, position) - position + start, min(end, position + n) - position + start)
            if here:
                pieces.append(here)
            position += n
        return pieces

    def shuffled(self, epoch: int, window: int) -> list[Tensor]:
        """For every batch of a window which of its rows it takes, int64 [n] counted within the window."""
        first, end = self._ends(window)
        stream = torch_stream(self.seed, "sae", "order", epoch, window)
        order = torch.randperm(end - first, generator=stream)
        places = [self.positions(batch) for batch in self.batches(window)]
        return [order[place.start - first : place.stop - first] for place in places]

    def _ends(self, window: int) -> tuple[int, int]:
        batches = self.batches(window)
        return self.positions(batches[0]).start, self.positions(batches[-1]).stop


def even_part(n: int, parts: int, number: int) -> range:
    """One of `parts` parts of 0..n-1, cut as `torch.tensor_split` does: the first ones may hold one more."""
    size, more = divmod(n, parts)
    start = number * size + min(number, more)
    return range(start, start + size + (number < more))

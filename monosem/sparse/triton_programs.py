"""What runs on the GPU, in Triton: see `monosem.sparse.triton_kernels`, which alone imports this file.

Both read the rows of ENTRIES entries at once, so that these wait for memory together. Offsets into tables are
64 bits wide: tables may have more than 2^31 entries.
"""

# mypy: ignore-errors
import triton
import triton.language as tl


@triton.jit
def sum_rows(table, index, offsets, weights, out, beta, dim, ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    """A program for each bag and each WIDTH of its columns: beta times what is there and the bag's rows."""
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < dim
    to = out + bag * dim + columns
    # Without a beta nothing is read: memory that was never written may hold no numbers.
    sums = beta * tl.load(to, mask=inside & (beta != 0), other=0.0).to(tl.float32)
    end = tl.load(offsets + bag + 1)
    for start in range(tl.load(offsets + bag), end, ENTRIES):
        entries = start + tl.arange(0, ENTRIES)
        there = entries < end
        rows = tl.load(index + entries, mask=there, other=0).to(tl.int64)
        by = tl.load(weights + entries, mask=there, other=0.0).to(tl.float32)
        places = table + rows[:, None] * dim + columns[None, :]
        found = tl.load(places, mask=there[:, None] & inside[None, :], other=0.0)
        sums += tl.sum(by[:, None] * found.to(tl.float32), axis=0)
    tl.store(to, sums.to(out.dtype.element_ty), mask=inside)


@triton.jit
def dot_rows(left, rows, right, columns, dots, n, dim, ENTRIES: tl.constexpr, WIDTH: tl.constexpr):
    """A program for every ENTRIES of the n entries: the dot products of their two rows."""
    entries = tl.program_id(0).to(tl.int64) * ENTRIES + tl.arange(0, ENTRIES)
    there = entries < n
    # Beyond the last entry the first rows are multiplied, and thrown away.
    of_left = left + tl.load(rows + entries, mask=there, other=0).to(tl.int64)[:, None] * dim
    of_right = right + tl.load(columns + entries, mask=there, other=0).to(tl.int64)[:, None] * dim
    sums = tl.zeros([ENTRIES, WIDTH], dtype=tl.float32)
    for start in range(0, dim, WIDTH):
        places = start + tl.arange(0, WIDTH)[None, :]
        inside = places < dim
        a = tl.load(of_left + places, mask=inside, other=0.0).to(tl.float32)
        sums += a * tl.load(of_right + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(dots + entries, tl.sum(sums, axis=1).to(dots.dtype.element_ty), mask=there)

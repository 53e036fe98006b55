"""What runs on the GPU, in Triton: see `monosem.sparse.triton_kernels`, which alone imports this file."""

# mypy: ignore-errors
import triton
import triton.language as tl


@triton.jit
def sum_rows(table, index, offsets, weights, out, dim, WIDTH: tl.constexpr):
    """A program for each bag and each WIDTH of its columns: the bag's weighted rows of the table, summed."""
    bag = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    inside = columns < dim
    sums = tl.zeros([WIDTH], dtype=tl.float32)
    for entry in range(tl.load(offsets + bag), tl.load(offsets + bag + 1)):
        row = table + tl.load(index + entry) * dim
        sums += tl.load(weights + entry).to(tl.float32) * tl.load(row + columns, mask=inside, other=0.0).to(
            tl.float32
        )
    tl.store(out + bag * dim + columns, sums.to(out.dtype.element_ty), mask=inside)


@triton.jit
def dot_rows(left, rows, right, columns, dots, dim, WIDTH: tl.constexpr):
    """A program for each entry: the dot product of its two rows."""
    entry = tl.program_id(0).to(tl.int64)
    of_left = left + tl.load(rows + entry) * dim
    of_right = right + tl.load(columns + entry) * dim
    sums = tl.zeros([WIDTH], dtype=tl.float32)
    for start in range(0, dim, WIDTH):
        places = start + tl.arange(0, WIDTH)
        inside = places < dim
        a = tl.load(of_left + places, mask=inside, other=0.0).to(tl.float32)
        sums += a * tl.load(of_right + places, mask=inside, other=0.0).to(tl.float32)
    tl.store(dots + entry, tl.sum(sums, axis=0).to(dots.dtype.element_ty))

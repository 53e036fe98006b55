"""Triton's programs: run on a GPU or by Triton's interpreter, compiled for GPUs that need not be there."""

import os
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monosem.sparse import kernels, triton_kernels
from monosem.sparse.batch_codes import forms_on

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="needs Triton, which comes with PyTorch for GPUs"
)


@needs_triton
def test_programs_compute_what_they_should() -> None:
    """In a process of their own: Triton asks when it is imported, and only then, whether to interpret."""
    interpret = "0" if torch.cuda.is_available() else "1"
    cases = Path(__file__).with_name("triton_cases.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", cases],
        env={**os.environ, "TRITON_INTERPRET": interpret},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


class Launch:
    """In the place of a program: keeps what it is launched with."""

    def __getitem__(self, programs: tuple[int, ...]) -> "Launch":
        return self

    def __call__(self, *arguments: Any, **options: Any) -> None:
        self.arguments, self.options = arguments, options


TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int64: "*i64",
    float: "fp32",
    int: "i32",
}


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_programs_compile_as_they_are_launched(
    dtype: torch.dtype, capability: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from monosem.sparse import triton_programs

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    launches = SimpleNamespace(sum_rows=Launch(), dot_rows=Launch())
    monkeypatch.setattr(triton_kernels, "_programs", lambda: launches)
    table, entries = torch.ones(40, 768, dtype=dtype), torch.arange(33)
    triton_kernels._sum_rows(table, entries, entries, table[0, :33], table, 0.5)
    triton_kernels._dot_rows(table, entries, table, entries)

    for name, launch in vars(launches).items():
        program = getattr(triton_programs, name)
        given = dict(zip(program.arg_names, launch.arguments, strict=False))
        constants = {key: launch.options.pop(key) for key in program.arg_names if key not in given}
        types = {key: TYPES[getattr(value, "dtype", type(value))] for key, value in given.items()}
        # As Triton itself would find: memory of tensors is aligned, and so are rows of 768 numbers.
        aligned = [
            isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
            for value in given.values()
        ]
        source = ASTSource(
            program,
            types | dict.fromkeys(constants, "constexpr"),
            constants,
            {(place,): [["tt.divisibility", 16]] for place, yes in enumerate(aligned) if yes},
        )
        found = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
        assert found.asm["cubin"]
        # Rows are read by 16 bytes a thread, and not only what is there already.
        assert found.asm["ptx"].count("ld.global.v4.b32") > 1


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host with Triton and, so it is told, a GPU, where no program can be compiled."""

    def programs() -> Any:
        raise RuntimeError("Failed to find a C compiler.\nSet CC.")

    monkeypatch.setattr(triton_kernels, "find_spec", lambda name: name)
    monkeypatch.setattr(triton_kernels, "_programs", programs)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(triton_kernels, "available", triton_kernels._run_on)
    triton_kernels._run_on.cache_clear()
    yield
    triton_kernels._run_on.cache_clear()


@pytest.mark.usefixtures("failing")
def test_a_host_where_triton_compiles_nothing_is_told_once_and_does_without() -> None:
    random = torch.Generator().manual_seed(0)
    table, weights = torch.randn(5, 20, generator=random), torch.randn(6, generator=random)
    index, offsets = torch.tensor([0, 4, 1, 2, 2, 3]), torch.tensor([0, 2, 6])
    with pytest.warns(UserWarning, match=r"Failed to find a C compiler\.\).* plain PyTorch is used"):
        sums = triton_kernels.weighted_rows(table, index, offsets, weights)
    dots = triton_kernels.row_dots(table, index, table, index)  # says nothing: a warning would be an error
    assert "triton" not in forms_on(torch.device("cpu"))
    assert torch.equal(sums, kernels.weighted_rows(table, index, offsets, weights))
    assert torch.equal(dots, kernels.row_dots(table, index, table, index))


def test_what_was_not_written_for_triton_goes_the_plain_way() -> None:
    double = torch.ones(3, 5, dtype=torch.float64)
    offsets, index, weights = torch.tensor([0, 2]), torch.tensor([0, 1]), torch.ones(2, dtype=torch.float64)
    assert torch.equal(
        triton_kernels.weighted_rows(double, index, offsets, weights), torch.full((1, 5), 2.0).double()
    )
    there = torch.ones(1, 5, dtype=torch.float64)
    triton_kernels.weighted_rows(double, index, offsets, weights, there, beta=0.5)
    assert torch.equal(there, torch.full((1, 5), 2.5).double())

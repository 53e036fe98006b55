"""The codes of a batch during training, in two forms with the same methods: dense, and held sparse.

Written for gradients: `decode` goes from codes to reconstructions, `dots` brings the gradient of
reconstructions back to the codes, `outer` gives that of the rows they were decoded with. All three know
prefixes: latents fall into groups that end at `ends` (the last end is their number), and the g-th of several
reconstructions is that of the first g groups together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor

from monosem.core.progress import SILENT, Watch
from monosem.sparse import kernels, onednn, operators, triton_kernels
from monosem.sparse.kernels import topk_relu


class BatchCodes(Protocol):
    """Codes of B samples over L latents; what is not held is zero, and so may be some of what is."""

    @property
    def values(self) -> Tensor:
        """What is held, in a shape of the form's own, which gradients with respect to it share."""

    @staticmethod
    def encode(x: Tensor, weight: Tensor, bias: Tensor, room: Tensor | None = None) -> Tensor:
        """The encoder's outputs x @ weight^T + bias, of `[B, D]`, `[L, D]` and `[L]`; perhaps in `room`."""

    @classmethod
    def topk(cls, pre: Tensor, k: int) -> Self:
        """The k largest entries of each row of `[B, L]`, negative ones as zeros."""

    @classmethod
    def where(cls, kept: Tensor, pre: Tensor) -> Self:
        """The entries of `[B, L]` where `kept` is true."""

    def with_values(self, values: Tensor) -> Self:
        """Other values in the same places."""

    def per_latent(self, of_latents: Tensor) -> Tensor:
        """What `[L]` says of each value's latent, in a shape that goes with `values`."""

    def decode(self, base: Tensor, table: Tensor, ends: Sequence[int]) -> list[Tensor]:
        """For each prefix base + codes @ table, of `[D]` and `[L, D]`: `[B, D]`."""

    def dots(self, lefts: Sequence[Tensor], table: Tensor, ends: Sequence[int]) -> Tensor:
        """left @ table^T where codes are held, with one left `[B, D]` for each group of latents."""

    def outer(
        self, lefts: Sequence[Tensor], ends: Sequence[int], room: Tensor | None = None, beta: float = 0.0
    ) -> Tensor:
        """codes^T @ left `[L, D]`, with one left `[B, D]` for each group of latents; perhaps in `room`.

        With a `beta` it is added to beta times what `room` holds, there.
        """

    def sums(self) -> Tensor:
        """Each latent's sum over the batch `[L]`."""


@dataclass(frozen=True)
class DenseCodes:
    """All entries, `values` `[B, L]`."""

    values: Tensor

    @staticmethod
    def encode(x: Tensor, weight: Tensor, bias: Tensor, room: Tensor | None = None) -> Tensor:
        """PyTorch's own product."""
        return kernels.encode(x, weight, bias, room)

    @classmethod
    def topk(cls, pre: Tensor, k: int) -> Self:
        """The k largest entries of each row."""
        return cls(topk_relu(pre, k))

    @classmethod
    def where(cls, kept: Tensor, pre: Tensor) -> Self:
        """The entries where `kept` is true."""
        return cls(pre * kept)

    def with_values(self, values: Tensor) -> Self:
        """Other values in the same places."""
        return type(self)(values)

    def per_latent(self, of_latents: Tensor) -> Tensor:
        """What `[L]` says of each value's latent."""
        return of_latents

    def decode(self, base: Tensor, table: Tensor, ends: Sequence[int]) -> list[Tensor]:
        """Group after group on top of what was there."""
        decoded: list[Tensor] = []
        for group in _groups(ends):
            decoded.append(torch.addmm(decoded[-1] if decoded else base, self.values[:, group], table[group]))
        return decoded

    def dots(self, lefts: Sequence[Tensor], table: Tensor, ends: Sequence[int]) -> Tensor:
        """A product for each group."""
        dots = [left @ table[group].T for left, group in zip(lefts, _groups(ends), strict=True)]
        return dots[0] if len(dots) == 1 else torch.cat(dots, dim=1)

    def outer(
        self, lefts: Sequence[Tensor], ends: Sequence[int], room: Tensor | None = None, beta: float = 0.0
    ) -> Tensor:
        """A product for each group."""
        outer = [self.values[:, group].T @ left for left, group in zip(lefts, _groups(ends), strict=True)]
        whole = outer[0] if len(outer) == 1 else torch.cat(outer)
        return whole if room is None or not beta else room.mul_(beta).add_(whole)

    def sums(self) -> Tensor:
        """Each latent's sum over the batch."""
        return self.values.sum(dim=0)


@dataclass(frozen=True)
class Places:
    """Where entries are: sample b has those from offsets[b] to offsets[b + 1]; columns int64 `[E]`."""

    columns: Tensor
    offsets: Tensor
    n_latents: int

    @cached_property
    def sample(self) -> Tensor:
        """The sample of each entry `[E]`."""
        samples = torch.arange(len(self.offsets) - 1, device=self.columns.device)
        return samples.repeat_interleave(self.offsets.diff(), output_size=len(self.columns))

    @cached_property
    def by_latent(self) -> tuple[Tensor, Tensor]:
        """Entries in the order of their latents `[E]`, and where each latent's begin `[L + 1]`."""
        return self.columns.argsort(stable=True), _offsets(self.columns, self.n_latents)

    def rows_of(self, lefts: Sequence[Tensor], ends: Sequence[int]) -> tuple[Tensor, Tensor]:
        """All lefts as one table, and the row of it that each entry's sample and group mean `[E]`."""
        if len(lefts) == 1:
            return lefts[0], self.sample
        group = torch.bucketize(self.columns, torch.tensor(ends, device=self.columns.device), right=True)
        return torch.cat(list(lefts)), self.sample + group * len(lefts[0])


@dataclass(frozen=True)
class SparseCodes:
    """The entries at `places`, `values` `[E]`."""

    values: Tensor
    places: Places

    kernels: ClassVar[Any] = kernels
    """Where products come from."""

    @staticmethod
    def encode(x: Tensor, weight: Tensor, bias: Tensor, room: Tensor | None = None) -> Tensor:
        """PyTorch's own product."""
        return kernels.encode(x, weight, bias, room)

    @classmethod
    def topk(cls, pre: Tensor, k: int) -> Self:
        """The k largest entries of each row."""
        values, columns = cls.kernels.topk(pre, k)
        offsets = torch.arange(0, values.numel() + 1, values.shape[1], device=pre.device)
        return cls(values.relu().flatten(), Places(columns.flatten(), offsets, pre.shape[1]))

    @classmethod
    def where(cls, kept: Tensor, pre: Tensor) -> Self:
        """The entries where `kept` is true."""
        samples, columns = kept.nonzero(as_tuple=True)
        return cls(pre[samples, columns], Places(columns, _offsets(samples, len(pre)), pre.shape[1]))

    def with_values(self, values: Tensor) -> Self:
        """Other values in the same places."""
        return type(self)(values, self.places)

    def per_latent(self, of_latents: Tensor) -> Tensor:
        """What `[L]` says of each value's latent."""
        return of_latents[self.places.columns]

    def decode(self, base: Tensor, table: Tensor, ends: Sequence[int]) -> list[Tensor]:
        """Sums of the table's rows, the entries beyond a prefix weighing nothing."""
        places = self.places
        weights = [*(self.values * (places.columns < end) for end in ends[:-1]), self.values]
        return [
            self.kernels.weighted_rows(table, places.columns, places.offsets, some).add_(base)
            for some in weights
        ]

    def dots(self, lefts: Sequence[Tensor], table: Tensor, ends: Sequence[int]) -> Tensor:
        """A dot product for each entry."""
        left, rows = self.places.rows_of(lefts, ends)
        dots: Tensor = self.kernels.row_dots(left, rows, table, self.places.columns)
        return dots

    def outer(
        self, lefts: Sequence[Tensor], ends: Sequence[int], room: Tensor | None = None, beta: float = 0.0
    ) -> Tensor:
        """Sums of the rows of samples in which a latent is active."""
        left, rows = self.places.rows_of(lefts, ends)
        order, offsets = self.places.by_latent
        weights = self.values[order]
        outer: Tensor = self.kernels.weighted_rows(left, rows[order], offsets, weights, room, beta)
        return outer

    def sums(self) -> Tensor:
        """Each latent's sum over the batch."""
        return self.values.new_zeros(self.places.n_latents).index_add_(0, self.places.columns, self.values)

    def active_counts(self) -> Tensor:
        """In how many samples each latent is active, int64 `[L]`."""
        return torch.bincount(self.places.columns[self.values > 0], minlength=self.places.n_latents)

    def padded(self) -> tuple[Tensor, Tensor]:
        """Columns and values, both `[B, entries of the fullest row]`, the largest first; zeros fill up."""
        counts = self.places.offsets.diff()
        width = max(1, int(counts.max()))
        place = torch.arange(len(self.values), device=counts.device) - self.places.offsets[self.places.sample]
        values, columns = self.values.new_zeros(len(counts), width), counts.new_zeros(len(counts), width)
        values[self.places.sample, place] = self.values
        columns[self.places.sample, place] = self.places.columns
        values, order = values.sort(dim=1, descending=True)
        return columns.gather(1, order), values


class CompiledCodes(SparseCodes):
    """Sparse codes whose products come from the compiled operators."""

    kernels: ClassVar[Any] = operators


class OneDnnCodes(CompiledCodes):
    """The same, the encoder's product by oneDNN."""

    @staticmethod
    def encode(x: Tensor, weight: Tensor, bias: Tensor, room: Tensor | None = None) -> Tensor:
        """oneDNN's."""
        return onednn.encode(x, weight, bias, room)


class TritonCodes(SparseCodes):
    """Sparse codes whose products come from Triton."""

    kernels: ClassVar[Any] = triton_kernels


FORMS: dict[str, type[BatchCodes]] = {
    "dense": DenseCodes,
    "sparse": SparseCodes,
    "compiled": CompiledCodes,
    "onednn": OneDnnCodes,
    "triton": TritonCodes,
}
"""By the names of `SAESettings.products`; where its operations are missing, a form takes the plain ones."""


def forms_on(device: torch.device, watch: Watch = SILENT, *, encoding: bool = True) -> list[str]:
    """The forms that are different things on this device, or on products with codes that are there already.

    `watch` hears of it if one is built first.
    """
    if device.type == "cpu":
        operators.announce(watch.notice)
    compiled = device.type == "cpu" and operators.compiled() is not None
    special = {
        "compiled": compiled,
        "onednn": encoding and compiled and onednn.available(),
        "triton": triton_kernels.available(device),
    }
    return [form for form in FORMS if special.get(form, True)]


def _groups(ends: Sequence[int]) -> list[slice]:
    return [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _offsets(groups: Tensor, n: int) -> Tensor:
    """Where the entries of each of n groups begin, once they are in order `[n + 1]`."""
    counts = torch.bincount(groups, minlength=n)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])

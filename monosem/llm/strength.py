"""How strong an adapter's update is, and the same adapter made stronger or weaker.

A smaller update forgets less, whatever its form. So adapters are compared along their whole range of scales
(the frontier of alignment against task), and LoRA at the scale with the update, or the distance from the
base, that MonoLoRA has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from monosem.core.errors import InputError
from monosem.llm.monolora import adapted_layers

MOST_SCALE = 8.0
"""The largest scale at which an adapter is tried."""

Batches = Iterable[Mapping[str, Tensor]]
"""Padded texts: input_ids and attention_mask, each [B, T]."""


@contextmanager
def scaled(model: nn.Module, factor: float, adapter: str = "default") -> Iterator[None]:
    """Inside the block the update is `factor` times as large: 0 is the base, 1 the adapter as it is."""
    layers = [layer for _, layer in adapted_layers(model, adapter)]
    before = [layer.scaling[adapter] for layer in layers]
    for layer, scaling in zip(layers, before, strict=True):
        layer.scaling[adapter] = factor * scaling
    try:
        yield
    finally:
        for layer, scaling in zip(layers, before, strict=True):
            layer.scaling[adapter] = scaling


class UpdateRecord:
    """Sums of squares over the tokens that have passed so far: of updates, and of outputs without them."""

    def __init__(self) -> None:
        self.update = self.base = 0.0
        self._mask: Tensor | None = None

    def norm(self) -> float:
        """The update's size beside what the adapted layers put out without it: sqrt(update / base)."""
        return float((self.update / self.base) ** 0.5)

    def _square(self, out: Tensor) -> float:
        mask = 1 if self._mask is None else self._mask[..., None]
        return float((out.detach().float() * mask).square().sum())


@contextmanager
def record_update(model: nn.Module, adapter: str = "default") -> Iterator[UpdateRecord]:
    """Record how large an adapter's update is on whatever the model reads inside the block, over all layers.

    sum |s B sigma(A x)|^2 and sum |W x|^2, x being what each layer receives in the adapted model; tokens that
    the attention mask leaves out do not count, nor does what is read with the adapter disabled.
    """
    record = UpdateRecord()

    def see_mask(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        record._mask = kwargs.get("attention_mask")

    def see_update(factor: float) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            record.update += factor**2 * record._square(out)

        return hook

    def see_base(layer: Any) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            if not layer.disable_adapters:
                record.base += record._square(out)

        return hook

    with ExitStack() as hooks:
        hooks.callback(model.register_forward_pre_hook(see_mask, with_kwargs=True).remove)
        for _, layer in adapted_layers(model, adapter):
            update = see_update(layer.scaling[adapter])
            hooks.callback(layer.lora_B[adapter].register_forward_hook(update).remove)
            hooks.callback(layer.get_base_layer().register_forward_hook(see_base(layer)).remove)
        yield record


@torch.no_grad()
def update_norm(model: Any, batches: Batches, adapter: str = "default") -> float:
    """The update's size on these texts, as `UpdateRecord.norm`."""
    with record_update(model, adapter) as record:
        read_texts_only(model, batches)
    return record.norm()


@torch.no_grad()
def read_texts_only(model: Any, batches: Batches) -> None:
    """Let the model read for the sake of what is recorded; logits, as dear as a third of it, are left out."""
    for batch in batches:
        model(**batch, logits_to_keep=1, use_cache=False)


@torch.no_grad()
def divergence(model: Any, batches: Batches, base: Iterable[Tensor]) -> float:
    """KL(base || adapted) of the next token, in nats, averaged over the real tokens.

    model: with the adapter. base: `predictions` of the same batches by the model without it.
    """
    total, tokens = 0.0, 0
    for of_base, adapted in zip(base, predictions(model, batches), strict=True):
        total += float((of_base.exp() * (of_base - adapted)).sum())
        tokens += len(of_base)
    return total / tokens


@torch.no_grad()
def predictions(model: Any, batches: Batches) -> Iterator[Tensor]:
    """Log-probabilities of the next token, [real tokens, vocabulary], batch by batch."""
    for batch in batches:
        real = batch["attention_mask"].bool()
        yield model(**batch, use_cache=False).logits[real].float().log_softmax(-1)


def scale_for(
    measure: Callable[[], float],
    target: float,
    model: nn.Module,
    adapter: str = "default",
    most: float = MOST_SCALE,
) -> float:
    """The scale at which `measure` of the model gives `target`, to one in a hundred.

    measure: `update_norm` or `divergence` on fixed batches, zero at scale 0. most: the largest scale tried.
    Raises InputError when even that one gives less.
    """

    @cache  # what was tried on the way up is asked for once more, and a reading takes seconds
    def excess(factor: float) -> float:
        if factor == 0:
            return -target
        with scaled(model, factor, adapter):
            return measure() - target

    high = 1.0
    while excess(high) < 0:
        if high >= most:
            raise InputError(
                f"adapter '{adapter}': even at {most:g} times its scale it stays below {target:.3g}"
            )
        high = min(2 * high, most)
    return float(brentq(excess, 0.0, high, xtol=1e-3, rtol=1e-2))

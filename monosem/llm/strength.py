"""How strong an adapter's update is, and the same adapter made stronger or weaker.

A smaller update forgets less, whatever its form. So adapters are compared along their whole range of scales
(the frontier of alignment against task), and LoRA at the scale with the update, or the distance from the
base, that MonoLoRA has.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
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


@torch.no_grad()
def update_norm(model: Any, batches: Batches, adapter: str = "default") -> float:
    """The update's size beside what the adapted layers put out without it, over real tokens and all layers.

    The root of sum |s B sigma(A x)|^2 / sum |W x|^2, x being what each layer receives in the adapted model.
    """
    sums = {"update": 0.0, "base": 0.0}
    mask = torch.ones(1, 1, 1)

    def add(part: str, factor: float) -> Callable[..., None]:
        def hook(_: nn.Module, args: Any, out: Tensor) -> None:
            sums[part] += float((factor * out.float() * mask).square().sum())

        return hook

    with ExitStack() as hooks:
        for _, layer in adapted_layers(model, adapter):
            update = add("update", layer.scaling[adapter])
            hooks.callback(layer.lora_B[adapter].register_forward_hook(update).remove)
            hooks.callback(layer.get_base_layer().register_forward_hook(add("base", 1.0)).remove)
        for batch in batches:
            mask = batch["attention_mask"][..., None]
            model(**batch, logits_to_keep=1, use_cache=False)
    return float((sums["update"] / sums["base"]) ** 0.5)


@torch.no_grad()
def divergence(model: Any, batches: Batches) -> float:
    """KL(base || adapted) of the next token, in nats, averaged over the real tokens."""
    total, tokens = 0.0, 0
    for batch in batches:
        real = batch["attention_mask"].bool()
        adapted = model(**batch).logits[real].float().log_softmax(-1)
        with model.disable_adapter():
            base = model(**batch).logits[real].float().log_softmax(-1)
        total += float((base.exp() * (base - adapted)).sum())
        tokens += len(base)
    return total / tokens


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

    def excess(factor: float) -> float:
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

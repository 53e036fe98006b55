"""Scales, sizes and distances of updates against their definitions written out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("peft", reason="needs monosem[llm]")

from peft import LoraConfig, get_peft_model

from monosem.core.errors import InputError
from monosem.llm import MonoLoraConfig
from monosem.llm.monolora import adapted_layers
from monosem.llm.strength import divergence, predictions, scale_for, scaled, update_norm

SHAPE = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]}


@pytest.fixture(params=[LoraConfig, MonoLoraConfig])
def model(base: Any, trained: Callable[..., Any], request: pytest.FixtureRequest) -> Any:
    return trained(get_peft_model(base, request.param(**SHAPE)))


@pytest.fixture
def batch(tokens: Tensor) -> dict[str, Tensor]:
    mask = torch.ones_like(tokens)
    mask[0, :3] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def test_scaled_is_the_adapter_with_another_alpha(
    model: Any, tokens: Tensor, trained: Callable[..., Any], tiny_llama: Callable[..., Any]
) -> None:
    kind = type(model.peft_config["default"])
    half = trained(get_peft_model(tiny_llama(), kind(**{**SHAPE, "lora_alpha": 4})))
    with torch.no_grad():
        whole = model(tokens).logits
        with scaled(model, 0.5):
            assert torch.equal(model(tokens).logits, half(tokens).logits)
        with scaled(model, 0.0):
            assert torch.equal(model(tokens).logits, tiny_llama()(tokens).logits)
        assert torch.equal(model(tokens).logits, whole)


def test_update_norm_is_that_of_the_outputs(model: Any, batch: dict[str, Tensor]) -> None:
    parts = []
    handles = [
        layer.register_forward_hook(
            lambda layer, args, out: parts.append((out, layer.get_base_layer()(args[0])))
        )
        for _, layer in adapted_layers(model, "default")
    ]
    with torch.no_grad():
        model(**batch)
    for handle in handles:
        handle.remove()
    real = batch["attention_mask"].bool()
    updates = sum(float((out - base)[real].square().sum()) for out, base in parts)
    bases = sum(float(base[real].square().sum()) for _, base in parts)
    assert update_norm(model, [batch, batch]) == pytest.approx((updates / bases) ** 0.5, rel=1e-4)


def test_divergence_is_kl_of_the_real_tokens(
    model: Any, batch: dict[str, Tensor], tiny_llama: Callable[..., Any]
) -> None:
    with torch.no_grad():
        adapted = model(**batch).logits.softmax(-1)
        base = tiny_llama()(**batch).logits.softmax(-1)
    kl = [
        sum(float(p * (p / q).log()) for p, q in zip(base[i, t], adapted[i, t], strict=True))
        for i, t in batch["attention_mask"].nonzero().tolist()
    ]
    unadapted = list(predictions(tiny_llama(), [batch]))
    assert divergence(model, [batch], unadapted) == pytest.approx(sum(kl) / len(kl), rel=1e-4)
    with scaled(model, 0.0):
        assert divergence(model, [batch], unadapted) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize("measure", [update_norm, divergence])
@pytest.mark.parametrize("factor", [0.4, 1.0, 3.0])
def test_scale_for_finds_the_scale(
    model: Any,
    batch: dict[str, Tensor],
    measure: Callable[..., float],
    factor: float,
    tiny_llama: Callable[..., Any],
) -> None:
    if measure is divergence:
        measure = partial(divergence, base=list(predictions(tiny_llama(), [batch])))
    with scaled(model, factor):
        target = measure(model, [batch])
    tried = []

    def measured() -> float:
        tried.append(next(layer.scaling["default"] for _, layer in adapted_layers(model, "default")))
        return measure(model, [batch])

    assert scale_for(measured, target, model) == pytest.approx(factor, rel=0.03)
    assert len(set(tried)) == len(tried)
    assert 0 not in tried


def test_a_strength_out_of_reach(model: Any, batch: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="even at 2 times its scale it stays below 1e"):
        scale_for(lambda: update_norm(model, [batch]), 1e6, model, most=2.0)

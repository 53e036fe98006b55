"""Tuning on a tiny model: what is learned, what two adapters share, and that stopping changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

pytest.importorskip("trl", reason="needs monosem[llm]")

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from monosem.core.errors import InputError, MonosemError, Paused
from monosem.core.progress import SilentWatch
from monosem.llm.chat import Pair, encode_pairs
from monosem.llm.monolora import adapted_layers
from monosem.llm.response_trainer import ResponseTrainer
from monosem.llm.tune import fresh_adapter, tune_adapter
from monosem.llm.tune_settings import AdapterSettings, TuneSettings

pytestmark = pytest.mark.filterwarnings("ignore:.*tensorboard.*")

PAIRS = [
    Pair(f"the film was {'good ' * (i % 5)}{word} : positive or negative ?", label)
    for i, (word, label) in enumerate([("good", "positive"), ("bad", "negative")] * 8)
]  # of several lengths
MONO = AdapterSettings(rank=4, dropout=0.1)
SETTINGS = TuneSettings(epochs=4, batch_size=4, lr=2e-2, max_length=64, checkpoint_every=3)


class StopsAt(SilentWatch):
    """Wants to pause after some steps; keeps what it was told."""

    def __init__(self, step: int | None = None) -> None:
        self.step, self.seen, self.losses = step, 0, []

    def progress(self, done: int, total: int, **values: float) -> None:
        self.seen, self.total = done, total

    def record(self, event: str, **values: Any) -> None:
        self.losses.append(values["loss"])

    def should_pause(self) -> bool:
        return self.step is not None and self.seen >= self.step


@pytest.fixture
def tune(tiny_llama: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Any]:
    def run(
        name: str = "one",
        adapter: AdapterSettings = MONO,
        settings: TuneSettings = SETTINGS,
        pairs: list[Pair] = PAIRS,
        watch: SilentWatch | None = None,
    ) -> Any:
        model = tiny_llama(initializer_range=0.3)  # with the usual 0.02 so small a model hardly learns
        return tune_adapter(
            model, tiny_tokenizer, pairs, adapter, settings, tmp_path / name, watch=watch or SilentWatch()
        )

    return run


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


def test_it_learns_and_keeps_only_the_adapter(tune: Callable[..., Any], tmp_path: Path) -> None:
    watch = StopsAt()
    model = tune(settings=SETTINGS.replace(epochs=10), watch=watch)
    assert (watch.seen, watch.total) == (40, 40)
    assert watch.losses[-1] < watch.losses[0] - 0.5
    assert not model.training
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == [
        "adapter",
        "tuned.json",
        "tuning.json",
    ]
    assert not any(p.requires_grad for name, p in model.named_parameters() if "lora_" not in name)


def test_paused_and_resumed_is_uninterrupted(tune: Callable[..., Any], tmp_path: Path) -> None:
    tune("whole")
    with pytest.raises(Paused):
        tune("parts", watch=StopsAt(5))
    assert not (tmp_path / "parts" / "adapter").exists()
    # A checkpoint that was cut short is passed over.
    (cut,) = (tmp_path / "parts" / "checkpoints").glob("checkpoint-5")
    (cut / "trainer_state.json").unlink()
    again = StopsAt()
    tune("parts", watch=again)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_what_is_done_is_found(tune: Callable[..., Any], tmp_path: Path) -> None:
    first = tune()
    watch = StopsAt()
    second = tune(watch=watch)
    assert watch.seen == 0
    for (name, a), (_, b) in zip(
        adapted_layers(first, "default"), adapted_layers(second, "default"), strict=True
    ):
        assert torch.equal(a.lora_B["default"].weight, b.lora_B["default"].weight), name
    with pytest.raises(InputError, match=r"one: holds an adapter of other settings \(tune\)"):
        tune(settings=SETTINGS.replace(lr=1e-3))
    with pytest.raises(InputError, match=r"other settings \(data\)"):
        tune(pairs=PAIRS[:4])


def test_adapters_share_their_start_and_their_order(tune: Callable[..., Any], tmp_path: Path) -> None:
    short = SETTINGS.replace(epochs=1, lr=1e-12)
    tune("mono", MONO.replace(dropout=0.0), short)
    tune("lora", MONO.replace(kind="lora", dropout=0.0), short)
    mono, lora = weights(tmp_path / "mono"), weights(tmp_path / "lora")
    assert mono.keys() == lora.keys()
    for key in mono:
        torch.testing.assert_close(mono[key], lora[key], atol=1e-8, rtol=0)
    assert any(value.abs().max() > 0.01 for value in mono.values())


def test_accumulated_steps_are_those_of_the_whole_batch(tune: Callable[..., Any], tmp_path: Path) -> None:
    adapter, settings = MONO.replace(dropout=0.0), SETTINGS.replace(by_length=False)
    tune("whole", adapter, settings)
    tune("pieces", adapter, settings.replace(batch_size=2, accumulate=2))
    whole, pieces = weights(tmp_path / "whole"), weights(tmp_path / "pieces")
    for key in whole:
        torch.testing.assert_close(whole[key], pieces[key], atol=2e-3, rtol=2e-3)


def test_the_loss_is_that_of_trl(tiny_llama: Callable[..., Any], tiny_tokenizer: Any, tmp_path: Path) -> None:
    """With responses of several lengths in a batch; the loss and every gradient."""
    pairs = [*PAIRS[:3], Pair("bad", "negative negative film")]
    encoded = encode_pairs(tiny_tokenizer, pairs, 64)
    data = Dataset.from_dict({"input_ids": encoded.input_ids, "labels": encoded.labels})
    options = SFTConfig(
        output_dir=str(tmp_path), use_cpu=True, max_length=None, report_to="none", disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True}, per_device_train_batch_size=4,
        gradient_checkpointing=None,
    )  # fmt: skip
    found = []
    for trainer_class in (SFTTrainer, ResponseTrainer):
        model = fresh_adapter(tiny_llama(initializer_range=0.3), MONO.replace(dropout=0.0), seed=1)
        for _, layer in adapted_layers(model, "default"):
            torch.nn.init.normal_(layer.lora_B["default"].weight, generator=torch.manual_seed(2))
        trainer = trainer_class(
            model=model, args=options, train_dataset=data, processing_class=tiny_tokenizer
        )
        (batch,) = trainer.get_train_dataloader()
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=torch.tensor(20))
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        found.append((loss.detach(), grads))
    (theirs, their_grads), (ours, our_grads) = found
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(our_grads, their_grads, atol=1e-6, rtol=1e-4)
    assert all(gradient.abs().max() > 0 for gradient in our_grads.values())


def test_samples_that_are_cut_are_counted(tune: Callable[..., Any]) -> None:
    said: list[str] = []
    watch = SilentWatch()
    watch.notice = said.append  # type: ignore[method-assign]
    tune(settings=SETTINGS.replace(max_length=10, epochs=1), watch=watch)
    assert any("16 of 16 samples were cut to 10 tokens" in line for line in said)


@pytest.mark.parametrize("kind", ["lora", "monolora"])
def test_targets_that_the_model_lacks(tune: Callable[..., Any], kind: Any) -> None:
    with pytest.raises(InputError, match="the model has no 'query'; its linear layers are down_proj"):
        tune(adapter=AdapterSettings(kind=kind, targets=("q_proj", "query")))


def test_lack_of_memory_names_the_setting(tune: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(SFTTrainer, "training_step", fail)
    with pytest.raises(MonosemError, match=r"out of memory; set tune\.batch_size lower"):
        tune()

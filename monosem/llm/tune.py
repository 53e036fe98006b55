"""Tuning an adapter on instruction and response pairs, with TRL's SFTTrainer underneath.

Whatever the adapter is, the same seed gives the same order of samples, the same first A (for the same rank)
and the same budget, so that adapters differ in nothing else. A folder holds the checkpoints while the work
goes on and the adapter once it is done: called again with it, the work goes on, or is found done.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from monosem.core.artifacts import atomic_folder, read_json, write_json_atomic
from monosem.core.devices import device_errors_explained
from monosem.core.errors import InputError, Paused
from monosem.core.progress import PAUSED, SILENT, Watch
from monosem.core.seeding import stream_seed
from monosem.llm.chat import Pair, encode_pairs, fingerprint_pairs
from monosem.llm.monolora import check_targets, load_adapter
from monosem.llm.tune_settings import AdapterSettings, TuneSettings

DONE = "tuned.json"
"""Beside a trained adapter: what decided it, tokens trained on (every epoch), samples that were cut."""

_STARTED = "tuning.json"
_COMPLETE = "trainer_state.json"
"""What the trainer writes last into a checkpoint: one without it was cut short."""


def tune_adapter(
    model: Any,
    tokenizer: Any,
    pairs: Sequence[Pair],
    adapter: AdapterSettings,
    settings: TuneSettings,
    folder: Path,
    *,
    seed: int = 0,
    watch: Watch = SILENT,
) -> Any:
    """The model with the adapter trained on `pairs`, in evaluation mode; loss on the responses only.

    model: a transformers model, which gets the adapter. folder: holds the adapter, and its checkpoints until
    it is done. Readings of the loss go to `watch`.
    Raises InputError for a folder that belongs to other settings, Paused when the watch says so (called
    again, the work goes on), and MonosemError when memory runs out.
    """
    identity = {
        "adapter": adapter.model_dump(mode="json"),
        "tune": settings.model_dump(mode="json"),
        "seed": seed,
        "data": fingerprint_pairs(pairs),
    }
    if (folder / DONE).exists():
        _check_same(folder, identity)
        return load_adapter(model, folder / "adapter")
    from datasets import Dataset
    from transformers import PrinterCallback
    from trl import SFTConfig

    from monosem.llm.response_trainer import ResponseTrainer

    folder.mkdir(parents=True, exist_ok=True)
    if (folder / _STARTED).exists():
        _check_same(folder, identity)
    write_json_atomic(folder / _STARTED, identity)
    encoded = encode_pairs(tokenizer, pairs, settings.max_length)
    if encoded.truncated:
        watch.notice(f"{encoded.truncated} of {len(pairs)} samples were cut to {settings.max_length} tokens")
    on_gpu = torch.cuda.is_available()
    checkpoints = folder / "checkpoints"
    options = SFTConfig(
        output_dir=str(checkpoints),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.accumulate,
        learning_rate=settings.lr,
        lr_scheduler_type=settings.schedule,
        weight_decay=settings.weight_decay,
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length" if settings.by_length else "random",
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        gradient_checkpointing=None,
        activation_checkpointing=settings.gradient_checkpointing,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    with torch.random.fork_rng():
        peft_model = fresh_adapter(model, adapter, seed)
        trainer = ResponseTrainer(
            model=peft_model,
            args=options,
            train_dataset=Dataset.from_dict({"input_ids": encoded.input_ids, "labels": encoded.labels}),
            processing_class=tokenizer,
            callbacks=[_follow(watch)],
        )
        trainer.remove_callback(PrinterCallback)
        with device_errors_explained("tuning", "set tune.batch_size lower and tune.accumulate higher"):
            trainer.train(resume_from_checkpoint=_latest(checkpoints))
    if trainer.state.global_step < trainer.state.max_steps:
        raise Paused(PAUSED)
    with atomic_folder(folder / "adapter") as draft:
        peft_model.save_pretrained(draft, save_embedding_layers=False)
    tokens = settings.epochs * sum(map(len, encoded.input_ids))
    write_json_atomic(folder / DONE, {**identity, "tokens": tokens, "truncated": encoded.truncated})
    shutil.rmtree(checkpoints, ignore_errors=True)
    return peft_model.eval()


def fresh_adapter(model: Any, adapter: AdapterSettings, seed: int) -> Any:
    """The model with the adapter as it is before training: the same A for the same seed and rank, B zero.

    Raises InputError when the model lacks one of the targets.
    """
    from peft import get_peft_model

    check_targets(model, adapter.targets)
    with torch.random.fork_rng():
        torch.manual_seed(stream_seed(seed, "adapter"))
        return get_peft_model(model, adapter.config())


def _check_same(folder: Path, identity: dict[str, Any]) -> None:
    name = DONE if (folder / DONE).exists() else _STARTED
    before = read_json(folder / name)
    differ = [key for key in identity if before.get(key) != identity[key]]
    if differ:
        raise InputError(
            f"{folder}: holds an adapter of other settings ({', '.join(differ)}); give another folder"
        )


def _latest(checkpoints: Path) -> str | None:
    """The newest complete checkpoint, None for a fresh start."""
    found = [path.parent for path in checkpoints.glob(f"checkpoint-*/{_COMPLETE}")]
    newest = max(found, key=lambda path: int(path.name.rpartition("-")[2]), default=None)
    return None if newest is None else str(newest)


def _follow(watch: Watch) -> Any:
    """The trainer's progress for `watch`, and the watch's wish to pause for the trainer."""
    from transformers import TrainerCallback

    class Follow(TrainerCallback):
        def __init__(self) -> None:
            self.readings: dict[str, float] = {}

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" in logs:
                self.readings = {"loss": float(logs["loss"])}
                watch.record("tune", step=state.global_step, **self.readings)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            watch.progress(state.global_step, state.max_steps, **self.readings)
            if watch.should_pause():
                control.should_save = control.should_training_stop = True

    return Follow()

"""A training step without a GPU: our loss, which reads the vocabulary at responses alone, beside TRL's own.

    python benchmarks/response_loss.py [--threads 2] [--repeats 5] [--batch 8] [--prompt 60] [--response 2]

A random Llama of SmolLM2-135M's shape with LoRA. Both take turns on the same batch, after their losses were
found to be equal; the median of their ratios is given.
"""

import argparse
import statistics
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from monolora import model_of
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from trl import SFTConfig, SFTTrainer

from monosem.llm import AdapterSettings
from monosem.llm.chat import IGNORED
from monosem.llm.response_trainer import ResponseTrainer
from monosem.llm.tune import fresh_adapter


def trainer_of(model: Any, folder: str) -> ResponseTrainer:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"<pad>": 0, "<end>": 1}, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="<end>",
    )
    options = SFTConfig(
        output_dir=folder,
        use_cpu=True,
        max_length=None,
        report_to="none",
        gradient_checkpointing=None,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    one = Dataset.from_dict({"input_ids": [[1, 1]], "labels": [[1, 1]]})
    return ResponseTrainer(model=model, args=options, train_dataset=one, processing_class=tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, default in (("threads", 2), ("repeats", 5), ("batch", 8), ("prompt", 60), ("response", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    model = fresh_adapter(model_of("none"), AdapterSettings(kind="lora"), seed=0).train()
    ids = torch.randint(100, 1000, (given.batch, given.prompt + given.response))
    labels = ids.clone()
    labels[:, : given.prompt] = IGNORED
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(model, folder)

    def step(kind: type[SFTTrainer]) -> tuple[float, float]:
        start = time.perf_counter()
        loss = kind.compute_loss(trainer, model, dict(batch))
        loss.backward()
        model.zero_grad()
        return time.perf_counter() - start, float(loss.detach())

    (_, ours), (_, theirs) = step(ResponseTrainer), step(SFTTrainer)
    if abs(ours - theirs) > 1e-4:
        raise SystemExit(f"the losses differ: {ours} and {theirs}")
    ratios = [step(SFTTrainer)[0] / step(ResponseTrainer)[0] for _ in range(given.repeats)]
    print(
        f"{given.batch} x ({given.prompt} + {given.response}) tokens, {given.threads} threads: a step with"
        f" TRL's loss takes {statistics.median(ratios):.2f} times ours (median of {given.repeats})"
    )


if __name__ == "__main__":
    main()

"""Settings of an adapter and of its training."""

from typing import Any, Literal

from pydantic import Field

from monosem.core.nonlinearities import NonlinearityName
from monosem.core.settings import Settings


class AdapterSettings(Settings):
    """LoRA, or MonoLoRA with its nonlinearity; by default as large as PEFT's, on queries and values (A.3)."""

    kind: Literal["lora", "monolora"] = "monolora"
    rank: int = Field(8, ge=1)
    alpha: float = Field(8, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: tuple[str, ...] = ("q_proj", "v_proj")
    nonlinearity: NonlinearityName = "relu"

    def config(self) -> Any:
        """As PEFT's `LoraConfig` or our `MonoLoraConfig`."""
        from peft import LoraConfig

        from monosem.llm.monolora import MonoLoraConfig

        shape = {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "target_modules": list(self.targets),
            "task_type": "CAUSAL_LM",
        }
        if self.kind == "lora":
            return LoraConfig(**shape)
        return MonoLoraConfig(**shape, nonlinearity=self.nonlinearity)


class TuneSettings(Settings):
    """How long and how fast. Source: A.3 of the paper, which gives epochs, batch and learning rate."""

    epochs: int = Field(1, ge=1)
    batch_size: int = Field(16, ge=1)
    accumulate: int = Field(1, ge=1)
    """Batches whose gradients are added up before a step: the same step with less memory."""
    lr: float = Field(1e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_length: int = Field(512, ge=8)
    """Tokens of a sample; longer instructions lose their beginning."""
    by_length: bool = True
    """Batches of samples about as long as each other, in random order: half the padding."""
    checkpoint_every: int = Field(100, ge=1)
    """Steps between checkpoints."""
    gradient_checkpointing: bool = False

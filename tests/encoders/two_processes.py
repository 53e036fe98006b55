"""What each of two processes runs in test_two_processes.py, and what one process runs to compare.

python two_processes.py OUT            one process on the joint batches
torchrun ... two_processes.py OUT      two that share them
"""

import atexit
import json
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from monosem.core.artifacts import save_tensors, write_json_atomic
from monosem.core.distributed import collected, this_world
from monosem.data.datasets import DatasetSettings, load_dataset
from monosem.data.label_noise import corrupt_labels
from monosem.data.view_batches import view_batches
from monosem.encoders.backbones import EncoderSettings, build_encoder
from monosem.encoders.contrastive_step import ContrastiveStep
from monosem.encoders.pretrain import epoch_batches, pretrain
from monosem.encoders.pretrain_settings import PretrainSettings, objective_loss
from monosem.encoders.sync_norm import synchronise_norms
from monosem.sparse.initialise import initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.trainer import Trainer

SETTINGS = PretrainSettings(
    encoder=EncoderSettings(backbone="small_conv", width=8, projector_hidden=32, projector_out=32),
    epochs=2,
    batch_size=32,
    optimizer="lars",
    lr_per_256=0.2,
    warmup_epochs=1.0,
)
RATE = 10.0


def gradients(settings: PretrainSettings, *, norms_stand_still: bool) -> dict[str, torch.Tensor]:
    """The gradient of the joint batch's loss in each parameter, read off an SGD step; running statistics."""
    world = this_world()
    train, _ = load_dataset(DatasetSettings(name="digits", train_limit=64))
    encoder = build_encoder(settings.encoder, 1, seed=0, output=settings.output).double().train()
    if world.size > 1:
        synchronise_norms(encoder, world.device)
    if norms_stand_still:  # then no image's output depends on another, and pieces of a batch change nothing
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    step = ContrastiveStep(
        encoder,
        torch.optim.SGD(encoder.parameters(), lr=RATE),
        objective_loss(settings, encoder),
        parts=settings.accumulate,
        bf16=False,
        compiled=False,
        world=world,
    )
    generator = torch.Generator().manual_seed(0)
    rows = [torch.arange(32)]
    part = world.part(32)
    (views,) = view_batches(train.images, rows, settings.views, generator, crops=(0, 0), part=part)
    step(views.double(), RATE)
    after = encoder.state_dict()
    names = [name for name, _ in encoder.named_parameters()]
    moved = {name: (before[name] - after[name]) / RATE for name in names}
    return moved | {name: after[name] for name in before if name.endswith(("running_mean", "running_var"))}


def sae_steps(activation: str) -> dict[str, torch.Tensor]:
    """An SAE and its counters after some steps on batches that do not divide evenly, with dead latents."""
    world = this_world()
    rows = torch.randn(21, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    settings = SAESettings(n_latents=20, k=3, activation=activation, sparsity_coef=0.5, aux_k=2, warmup=0.0)
    sae = SAE(6, settings).double()
    start = starting_point(rows, settings)
    initialise(sae, start, seed=0)
    trainer = Trainer(sae, start.variance, None, world)
    trainer.idle[:4] = settings.dead_after
    for batch in rows.split(7):
        trainer.step(batch[world.part(len(batch))])
    readings = {name: torch.tensor(value) for name, value in trainer.readings().items()}
    return {**sae.state_dict(), "idle": trainer.idle, **readings}


def main(out: Path) -> None:
    # What is registered first is called last: after whatever `this_world` registers.
    left = out / f"left-{os.environ.get('RANK', '0')}.json"
    atexit.register(lambda: left.write_text(json.dumps(not dist.is_initialized())))
    world = this_world()
    for objective in ("simclr", "ncl"):
        settings = SETTINGS.replace(objective=objective, nonnegative_on="raw")
        whole = gradients(settings, norms_stand_still=False)
        parts = settings.replace(accumulate=2 if world.size > 1 else 1)
        pieces = gradients(parts, norms_stand_still=True)
        if world.is_main:
            save_tensors(out / f"{objective}-whole.safetensors", whole)
            save_tensors(out / f"{objective}-pieces.safetensors", pieces)
    for activation in ("topk", "batch_topk", "jump_relu", "relu"):
        save_tensors(out / f"sae-{activation}-{world.rank}.safetensors", sae_steps(activation))
    train, _ = load_dataset(DatasetSettings(name="digits", train_limit=64))
    trained = pretrain(train, SETTINGS, seed=0)
    order = [batch.tolist() for batch in epoch_batches(len(train), SETTINGS.batch_size, 0, 1)]
    write_json_atomic(out / f"order-{world.rank}.json", order)
    noisy = corrupt_labels(train.labels, 0.4, 0, 10)
    save_tensors(out / f"encoder-{world.rank}.safetensors", trained.encoder.state_dict())
    write_json_atomic(out / f"labels-{world.rank}.json", noisy.labels.tolist())
    rows = torch.arange(7 * 3).view(7, 3)
    together = collected(rows[world.part(7)], 7, world)
    assert torch.equal(together, rows)
    if world.is_main:
        write_json_atomic(out / "history.json", trained.history)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Contrastive pretraining beside lightly's and torchvision's parts: views, loss, whole step; and a profile.

    python benchmarks/pretraining.py --install ENV     once: an environment of its own with the peers, 5.4 GB
    ENV/bin/python benchmarks/pretraining.py [--batch 32] [--repeats 5] [--threads 2]
    python benchmarks/pretraining.py --profile         where the time of a step goes; needs no peers

Both sides see the same images and train the same network on the same shapes: ResNet-18 with CIFAR stem and a
projector of two layers, LARS, temperature 0.2, the paper's augmentations. Rounds alternate; medians are
compared as ratios.
"""

import argparse
import statistics
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from monosem.core.distributed import World
from monosem.data.view_batches import view_batches
from monosem.data.views import ViewSettings, two_views
from monosem.encoders.backbones import EncoderSettings, build_encoder
from monosem.encoders.contrastive_loss import nt_xent
from monosem.encoders.contrastive_step import ContrastiveStep
from monosem.encoders.optim import OPTIMIZERS
from monosem.encoders.pretrain_settings import PretrainSettings, objective_loss
from monosem.encoders.readings import EpochReadings

PEERS = ("torch==2.14.1", "torchvision==0.29.1", "lightly==1.6.0")
"""Beside a CPU build of torch, torchvision's compiled part does not load: the ordinary build, then."""

MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
CPU = World(0, 1, torch.device("cpu"))


def install(folder: Path) -> None:
    """Make the environment: the peers, and monosem without its own range of torch versions."""
    venv.create(folder, with_pip=True)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    needs = ("accelerate", "jinja2", "pandas", "pooch", "pydantic", "pyyaml", "safetensors", "scikit-learn")
    subprocess.run([*pip, *PEERS, *needs, "matplotlib", "rich", "typer"], check=True)
    subprocess.run([*pip, "--no-deps", "-e", str(Path(__file__).parents[1])], check=True)


def ours(batch: int, hidden: int, out: int) -> Callable[[Tensor], None]:
    """A whole step of monosem: images uint8 [N, 3, 32, 32] -> moved weights, readings taken."""
    settings = PretrainSettings(
        encoder=EncoderSettings(projector_hidden=hidden, projector_out=out), batch_size=batch
    )
    encoder = build_encoder(settings.encoder, 3, seed=0).train().to(memory_format=torch.channels_last)
    optimizer = OPTIMIZERS["lars"](encoder, 0.4, 1e-4)
    step = ContrastiveStep(
        encoder, optimizer, objective_loss(settings, encoder), parts=1, bf16=False, compiled=False, world=CPU
    )
    readings, generator = EpochReadings(out, CPU.device), torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))

    def run(images: Tensor) -> None:
        rows = [torch.arange(len(images))]
        (views,) = view_batches(images, rows, settings.views, generator, crops=(0, 0))
        inputs = ((views - mean) / std).contiguous(memory_format=torch.channels_last)
        loss, z = step(inputs, 0.1)
        readings.add(loss, z.float())

    run.encoder, run.optimizer, run.step, run.readings = encoder, optimizer, step, readings  # type: ignore[attr-defined]
    return run


def theirs(hidden: int, out: int) -> Callable[[Tensor], None]:
    """The same step of torchvision's network and lightly's transform, head, loss and optimiser."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import SimCLRProjectionHead
    from lightly.utils.lars import LARS
    from torchvision.models import resnet18

    backbone = resnet18()
    backbone.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    backbone.maxpool, backbone.fc = nn.Identity(), nn.Identity()
    head = SimCLRProjectionHead(512, hidden, out, batch_norm=False)
    net = nn.Sequential(backbone, head).train().to(memory_format=torch.channels_last)
    criterion = NTXentLoss(temperature=0.2)
    optimizer = LARS(net.parameters(), lr=0.4, momentum=0.9, weight_decay=1e-4, trust_coefficient=0.02)
    transform = lightly_views()

    def run(images: Tensor) -> None:
        views = transform(images).contiguous(memory_format=torch.channels_last)
        loss = criterion(*net(views).chunk(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def lightly_views() -> Callable[[Tensor], Tensor]:
    """lightly's SimCLR transform, image by image as it works: [N, 3, S, S] -> views [2N, 3, S, S]."""
    from lightly.transforms import SimCLRTransform
    from torchvision.transforms.functional import to_pil_image

    transform = SimCLRTransform(input_size=32, normalize={"mean": list(MEAN), "std": list(STD)})

    def run(images: Tensor) -> Tensor:
        pairs = [transform(to_pil_image(image)) for image in images]
        return torch.cat([torch.stack(view) for view in zip(*pairs, strict=True)])

    return run


def torchvision_views() -> Callable[[Tensor], Tensor]:
    """torchvision's own operations on tensors, image by image, so that each has its own parameters."""
    from torchvision.transforms import v2

    transform = v2.Compose(
        [
            v2.RandomResizedCrop(32, scale=(0.08, 1.0), antialias=False),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], 0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], 0.5),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    return lambda images: torch.stack([transform(image) for _ in range(2) for image in images])


def our_views() -> Callable[[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)
    mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in (MEAN, STD))
    return lambda images: (torch.cat(two_views(images, ViewSettings(), generator)) - mean) / std


def loss_and_gradient(loss: Callable[[Tensor, Tensor], Tensor], z: Tensor) -> tuple[Tensor, Tensor]:
    inputs = z.clone().requires_grad_()
    value = loss(*inputs.chunk(2))
    (gradient,) = torch.autograd.grad(value, inputs)
    return value.detach(), gradient


def compare(what: str, repeats: int, **sides: Callable[[], object]) -> None:
    """Print the median time of each side, and of the first (ours) in units of the others."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(repeats + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            if round_:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    mine, *others = medians
    shown = "  ".join(f"{name} {1e3 * seconds:.1f} ms" for name, seconds in medians.items())
    ratios = ", ".join(f"{medians[mine] / medians[other]:.3f} of {other}" for other in others)
    print(f"{what:34} {shown}\n{'':34} {mine} takes {ratios}")


def profile(batch: int, repeats: int) -> None:
    """Where the time of a step goes, with the paper's projector (512 -> 16,384 -> 2,048)."""
    run, marks = ours(batch, 16384, 2048), {}
    encoder, optimizer = run.encoder, run.optimizer  # type: ignore[attr-defined]

    def mark(name: str) -> Callable[..., None]:
        return lambda *_: marks.__setitem__(name, time.perf_counter())

    encoder.register_forward_pre_hook(mark("forward"))
    encoder.register_forward_hook(mark("loss"))
    optimizer.register_step_pre_hook(mark("optimiser"))
    optimizer.register_step_post_hook(mark("readings"))
    step = run.step  # type: ignore[attr-defined]
    loss_of = step._loss_of

    def marked_loss(z0: Tensor, z1: Tensor) -> Tensor:
        value: Tensor = loss_of(z0, z1)
        marks["backward"] = time.perf_counter()
        return value

    step._loss_of = marked_loss
    images = torch.randint(256, (batch, 3, 32, 32), dtype=torch.uint8)
    totals: dict[str, float] = {}
    for round_ in range(repeats + 1):
        marks["views"] = time.perf_counter()
        run(images)
        marks["end"] = time.perf_counter()
        names = ("views", "forward", "loss", "backward", "optimiser", "readings", "end")
        if round_:
            for name, following in pairwise(names):
                totals[name] = totals.get(name, 0.0) + marks[following] - marks[name]
    whole = sum(totals.values())
    print(f"a step on {batch} images (ResNet-18, projector 512-16384-2048, LARS): {whole / repeats:.2f} s")
    for name, seconds in totals.items():
        print(f"  {name:10} {100 * seconds / whole:6.2f} %")
    outside = whole - sum(totals[name] for name in ("forward", "backward", "optimiser"))
    print(f"outside forward, backward and optimiser: {100 * outside / whole:.2f} %")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="ENV")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.install:
        install(arguments.install)
        return
    torch.set_num_threads(arguments.threads)
    if arguments.profile:
        profile(arguments.batch, arguments.repeats)
        return
    try:
        import lightly
        import torchvision
    except (ImportError, RuntimeError) as error:
        sys.exit(f"error: the peers are missing here ({error}); see --help for --install")
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}, lightly {lightly.__version__}")
    images = torch.randint(256, (512, 3, 32, 32), dtype=torch.uint8)
    sides = {"ours": our_views(), "lightly": lightly_views(), "torchvision": torchvision_views()}
    views = {name: (lambda make=make: make(images)) for name, make in sides.items()}
    compare("two views of 512 images of 32 px", arguments.repeats, **views)

    from lightly.loss import NTXentLoss

    z = torch.randn(512, 2048)
    peer = NTXentLoss(temperature=0.2)
    mine, other = loss_and_gradient(lambda a, b: nt_xent(a, b, 0.2), z), loss_and_gradient(peer, z)
    torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-7)
    compare(
        "NT-Xent and gradient, 2 x 256 x 2048",
        4 * arguments.repeats,
        ours=lambda: loss_and_gradient(lambda a, b: nt_xent(a, b, 0.2), z),
        lightly=lambda: loss_and_gradient(peer, z),
    )
    batch = images[: arguments.batch]
    my_step, their_step = ours(arguments.batch, 2048, 512), theirs(2048, 512)
    compare(
        f"whole step on {arguments.batch} images, ResNet-18",
        arguments.repeats,
        ours=lambda: my_step(batch),
        lightly=lambda: their_step(batch),
    )


if __name__ == "__main__":
    main()

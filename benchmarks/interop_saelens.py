"""Is an SAE the same in SAELens? Ours loaded there, theirs here: largest differences over random features.

    pip install sae-lens && python benchmarks/interop_saelens.py [--dim 128] [--latents 1024] [--rows 4096]

Differences are relative to the largest code and the largest reconstruction, in float64 on both sides, so that
what is left is the rounding of the weights; "rows apart" counts rows with another set of active latents (ties
to within that rounding).
"""

import argparse
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sae_lens
import torch
from sae_lens.saes.sae import TrainStepInput
from torch import Tensor

from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.saelens import load_saelens, save_saelens
from monosem.sparse.train import fit_sae

K, STEPS, BATCH = 16, 60, 512


def features(rows: int, dim: int, seed: int) -> Tensor:
    """Sparse mixtures of fixed directions, far from the origin and not of unit scale."""
    directions = torch.randn(2 * dim, dim, generator=torch.Generator().manual_seed(99))
    random = torch.Generator().manual_seed(seed)
    present = torch.rand(rows, 2 * dim, generator=random) < 0.05
    return 7 * ((present * (0.5 + torch.rand(rows, 2 * dim, generator=random))) @ directions + 2.0)


def ours(train: Tensor, n_latents: int) -> Iterator[tuple[str, SAE]]:
    """Trained TopK SAEs, and the others with the weights of one of them and thresholds at its least codes."""
    for norm in ("rms", "layer", "none"):
        settings = SAESettings(n_latents=n_latents, k=K, input_norm=norm, epochs=3, batch_size=BATCH)
        trained = fit_sae(train, settings)
        yield f"topk, {norm}", trained
        codes = trained.encode(train)
        least = torch.where(codes > 0, codes, torch.inf).amin(dim=0).nan_to_num(posinf=1.0)
        for activation in ("jump_relu", "batch_topk", "relu"):
            sae = SAE(train.shape[1], settings.replace(activation=activation))
            sae.load_state_dict(trained.state_dict(), strict=False)
            if sae.threshold is not None:
                sae.threshold.data.copy_(least)
            yield f"{activation}, {norm}", sae


def theirs(train: Tensor, n_latents: int, folder: Path) -> Iterator[tuple[str, Path]]:
    """SAEs that SAELens trained a little and saved, for use and as checkpoints of its training."""
    shape = {"d_in": train.shape[1], "d_sae": n_latents}
    configs: dict[str, Any] = {
        "standard": sae_lens.StandardTrainingSAEConfig(**shape),
        "standard, layer_norm": sae_lens.StandardTrainingSAEConfig(
            **shape, normalize_activations="layer_norm"
        ),
        "standard, b_dec not applied": sae_lens.StandardTrainingSAEConfig(
            **shape, apply_b_dec_to_input=False
        ),
        "topk": sae_lens.TopKTrainingSAEConfig(**shape, k=K),
        "topk, no rescaling": sae_lens.TopKTrainingSAEConfig(
            **shape, k=K, rescale_acts_by_decoder_norm=False
        ),
        "jumprelu": sae_lens.JumpReLUTrainingSAEConfig(**shape),
        "batchtopk": sae_lens.BatchTopKTrainingSAEConfig(**shape, k=K),
    }
    for name, config in configs.items():
        sae = sae_lens.TrainingSAE.get_sae_class_for_architecture(config.architecture())(config)
        optimizer = torch.optim.Adam(sae.parameters(), lr=1e-3)
        for step in range(STEPS):
            rows = torch.randint(len(train), (BATCH,), generator=torch.Generator().manual_seed(step))
            step_input = TrainStepInput(
                sae_in=train[rows],
                coefficients={"l1": 1.0, "l0": 1e-2},
                dead_neuron_mask=None,
                n_training_steps=step,
                is_logging_step=False,
            )
            optimizer.zero_grad()
            sae.training_forward_pass(step_input).loss.backward()
            optimizer.step()
        place = folder / name.replace(", ", "-").replace(" ", "_")
        sae.save_inference_model(place)
        yield name, place


@torch.no_grad()
def compare(name: str, x: Tensor, mine: SAE, folder: Path) -> None:
    there = sae_lens.SAE.load_from_disk(folder, dtype="float64")
    here = mine.double()
    codes, their_codes = here.encode(x), there.encode(x.double())
    outputs, their_outputs = here(x), there(x.double())
    apart = ((codes > 0) != (their_codes > 0)).any(dim=1)
    agreed = ~apart
    differences = [
        float((a - b)[agreed].abs().max() / b.abs().max())
        for a, b in ((codes, their_codes), (outputs, their_outputs))
    ]
    l0 = float((their_codes > 0).sum(dim=1).double().mean())
    cells = f"{differences[0]:9.1e} {differences[1]:14.1e} {int(apart.sum()):6} of {len(x)}  L0 {l0:.1f}"
    print(f"{name:44} {cells}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--latents", type=int, default=1024)
    parser.add_argument("--rows", type=int, default=4096)
    arguments = parser.parse_args()
    train, held_out = (features(arguments.rows, arguments.dim, seed) for seed in (0, 1))
    print(
        f"sae-lens {version('sae-lens')}, torch {torch.__version__}, {arguments.dim} -> {arguments.latents}"
    )
    print(f"{'':44} {'codes':>9} {'reconstruction':>14} {'rows apart':>12}")
    with TemporaryDirectory() as temporary:
        root = Path(temporary)
        for number, (name, sae) in enumerate(ours(train, arguments.latents)):
            save_saelens(sae, root / f"{number}", metadata={"model_name": "none"})
            compare(f"ours there: {name}", held_out, sae, root / f"{number}")
        for name, place in theirs(train, arguments.latents, root / "theirs"):
            compare(f"theirs here: {name}", held_out, load_saelens(place), place)
            architecture = json.loads((place / "cfg.json").read_text())["architecture"]
            if architecture != name.split(",")[0]:
                print(f"{'':13}(saved by SAELens as {architecture})")


if __name__ == "__main__":
    main()

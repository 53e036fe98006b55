"""Does an SAE find a known dictionary (targets: mean maximum cosine 0.95, under 2 % dead, over 5 seeds)?

    python benchmarks/planted_dictionary.py [--seeds 5] [--activation topk] [--samples 50000]

512 unit atoms in 128 dimensions; each sample is the sum of 8 of them with weights between 0.5 and 1.5, and
noise of 10 % of its norm. An SAE of as many latents is asked for the directions; for every atom the largest
cosine with a dictionary vector counts.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch import Tensor

from monosem.sparse.evaluate import sae_quality
from monosem.sparse.sae_settings import SAESettings
from monosem.sparse.train import fit_sae

ATOMS, DIM, ACTIVE, NOISE = 512, 128, 8, 0.1


def planted(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples [n, DIM] and their atoms [ATOMS, DIM]."""
    random = torch.Generator().manual_seed(seed)
    atoms = F.normalize(torch.randn(ATOMS, DIM, generator=random), dim=1)
    chosen = torch.rand(n, ATOMS, generator=random).topk(ACTIVE, dim=1).indices
    weights = 0.5 + torch.rand(n, ACTIVE, generator=random)
    clean = torch.zeros(n, ATOMS).scatter_(1, chosen, weights) @ atoms
    noise = F.normalize(torch.randn(n, DIM, generator=random), dim=1)
    return clean + NOISE * clean.norm(dim=1, keepdim=True) * noise, atoms


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--activation", default="topk")
    arguments = parser.parse_args()
    settings = SAESettings(
        n_latents=ATOMS, k=ACTIVE, activation=arguments.activation, epochs=arguments.epochs
    )
    for seed in range(arguments.seeds):
        samples, atoms = planted(arguments.samples, seed)
        start = time.perf_counter()
        sae = fit_sae(samples, settings, seed=seed)
        seconds = time.perf_counter() - start
        cosines = (atoms @ sae.decoder.T).amax(dim=1)
        quality = sae_quality(sae, samples)
        print(
            f"seed {seed}: mean maximum cosine {float(cosines.mean()):.3f}, atoms above 0.9 "
            f"{float((cosines > 0.9).float().mean()):.1%}, dead {quality.dead:.1%}, FVU {quality.fvu:.3f}, "
            f"L0 {quality.l0:.1f}, {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()

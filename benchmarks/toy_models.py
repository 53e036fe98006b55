"""A map of toy models of superposition (targets: 180 s in all; losses within 2 % of those of 10,000 steps).

    python benchmarks/toy_models.py [--threads 2]

As in `fig5-toy`, with 5 models of a kind: models with superposition at ten sparsities and those without are
trained together; then all are probed at every sparsity, on clean labels and at nine rates of wrong ones, by
probes whose strength is tuned. Then the models of three sparsities are trained for 10,000 steps instead.
"""

import argparse
import time

import torch

from monosem.core.seeding import torch_stream
from monosem.data.noise_source import noise_source
from monosem.experiments.grid import ProbedFeatures, label_cells, tuned_protocol
from monosem.experiments.recipes import load_any_recipe
from monosem.experiments.toy_maps import LABEL_NOISE, SUPERPOSED, train_all
from monosem.explain.toy_model import ToyModels, thinned, top_map, toy_samples, train_toys

CHECKED = (0.0, 0.8, 0.96)
STEPS = 10_000


def final_loss(models: ToyModels, sparsity: torch.Tensor, importance: float) -> torch.Tensor:
    """Of models with a ReLU [M], on 20,000 new samples, the same for all."""
    n = models.weight.shape[2]
    uniform = torch.rand(20_000, n, generator=torch_stream(0, "benchmark"))
    losses = []
    for weight, bias, share in zip(models.weight, models.bias, sparsity, strict=True):
        x = thinned(uniform, share)
        rebuilt = (x @ weight.T @ weight + bias).relu()
        losses.append(((x - rebuilt).square() * importance ** torch.arange(n)).sum(-1).mean())
    return torch.stack(losses)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    torch.set_num_threads(parser.parse_args().threads)
    recipe = load_any_recipe("fig5-toy", ["n_models=5"])
    n, shares = recipe.model.n_concepts, recipe.sparsity
    start = time.perf_counter()
    weights = train_all(recipe)
    trained = time.perf_counter() - start
    kinds = {SUPERPOSED: weights[SUPERPOSED], "linear": weights["linear"]}
    apart = top_map(n, recipe.model.n_dims).weight[0]
    fits = 0
    for place, share in enumerate(shares):
        for seed in range(recipe.n_models):
            train, labels = toy_samples(recipe.n_train, n, share, seed)
            test, truth = toy_samples(recipe.n_test, n, share, seed + 1_000_003)
            source = noise_source("symmetric", labels, [str(i) for i in range(n)])
            noisy = label_cells(LABEL_NOISE, source, recipe.label_noise, 1, seed)
            models = [of[place, seed] for of in kinds.values()] + [weights["dense-trained"][seed], apart]
            for weight in models:
                tuned_protocol(
                    train @ weight.T, noisy, ProbedFeatures(truth, test @ weight.T), recipe.tuned, seed
                )
                fits += len(noisy.cells)
    probed = time.perf_counter() - start - trained
    n_models = sum(of.numel() for of in weights.values()) // apart.numel()
    print(f"{n_models} models, {recipe.model.steps:,} steps: {trained:.0f} s")
    print(f"{fits:,} tuned probes: {probed:.0f} s; together {trained + probed:.0f} s")
    sparsity = torch.tensor(CHECKED).repeat_interleave(recipe.n_models)
    seeds = torch.arange(recipe.n_models).repeat(len(CHECKED))
    of_steps = {
        steps: final_loss(
            train_toys(recipe.model.replace(steps=steps), sparsity, seeds, ["relu"] * len(seeds)),
            sparsity,
            recipe.model.importance,
        ).view(len(CHECKED), -1)
        for steps in (recipe.model.steps, STEPS)
    }
    for place, share in enumerate(CHECKED):
        short, long = (losses[place].mean() for losses in of_steps.values())
        print(f"S = {share:g}: loss {short:.5f}, after {STEPS:,} steps {long:.5f} ({short / long - 1:+.2%})")


if __name__ == "__main__":
    main()

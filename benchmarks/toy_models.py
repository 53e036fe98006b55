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
from monosem.experiments.grid import ProbedFeatures, tuned_protocol
from monosem.experiments.recipes import load_any_recipe
from monosem.experiments.toy_maps import APART, SUPERPOSED, drawn, train_all, weight_of
from monosem.explain.toy_model import ToyModels, thinned, train_toys

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
    start = time.perf_counter()
    weights = train_all(recipe)
    trained = time.perf_counter() - start
    fits = 0
    for place, share in enumerate(recipe.sparsity):
        for seed in range(recipe.n_models):
            train, noisy, test, truth = drawn(recipe, share, seed)
            for kind in (SUPERPOSED, *APART):
                weight = weight_of(recipe, weights, kind, place, seed)
                tuned_protocol(
                    train @ weight.T, noisy, ProbedFeatures(truth, test @ weight.T), recipe.tuned, seed
                )
                fits += len(noisy.cells)
    probed = time.perf_counter() - start - trained
    n_models = (2 * len(recipe.sparsity) + 1) * recipe.n_models
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

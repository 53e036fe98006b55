"""Steps of an SAE's training beside the least they can cost, the dense form, and other libraries.

    python benchmarks/sae.py [--rounds 7] [--threads 2] [--device cpu] [--only wide,paper,encode,probes,peers]

wide    768 -> 24,576, k 32, batch 1,024. The floor is one dense encode product into memory at hand,
        an unsorted torch.topk and fused Adam on weights of these shapes, no more (targets: 1.35
        with the operator, 1.7 without; with AuxK and 5 % of dead latents 1.6 and 2).
paper   2,048 -> 2,048, k 256, batch 512: the form that is chosen, and the dense one (target: never slower).
encode  codes of the wide SAE in use, against the dense product and torch.topk (target: 1.15).
probes  products of codes with k/n = 1/8 and 2,048 x 5,000 probe weights, batch 256, against dense ones
        (target: 0.4 with the operator), and whole trainings of 50 probes by `train_probes`, forty steps
        of SGD on codes (targets: 0.6; what is chosen without the operator never slower than dense).
peers   steps of SAELens' and EleutherAI's sparsify's TopK SAEs of the wide shape, where these are installed,
        both with fused Adam (targets: at least 5 and 1.8 times ours).

Rounds alternate, so that a busy machine slows all alike; medians are compared. The targets are a CPU's; with
`--device cuda` all of it runs on a GPU, in the forms that there are on one.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

from monosem.core.progress import SILENT, SilentWatch, Watch
from monosem.data.codes import Codes
from monosem.robust.probe import ProbeSettings, train_probes
from monosem.sparse import kernels, operators
from monosem.sparse.batch_codes import FORMS, forms_on
from monosem.sparse.initialise import initialise, starting_point
from monosem.sparse.sae import SAE
from monosem.sparse.sae_settings import ProductsName, SAESettings
from monosem.sparse.trainer import Trainer

D, L, K, B = 768, 24_576, 32, 1_024
DEAD = L // 20
CLASSES, PROBE_BATCH = 5_000, 256

Works = dict[str, Callable[[], object]]


def medians(works: Works, rounds: int) -> dict[str, float]:
    """Median seconds of each work over alternating rounds, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for counts in [False] + [True] * rounds:
        for name, work in works.items():
            start = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # what was given to a GPU is only begun
            if counts:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def show(title: str, seconds: dict[str, float], unit: str) -> None:
    print(f"\n{title}")
    for name, time_of in seconds.items():
        print(f"  {name:34}{1000 * time_of:10.1f} ms  {time_of / seconds[unit]:6.2f} x {unit}")


def trainer(dim: int, n_latents: int, k: int, form: str, x: Tensor, dead: int = 0) -> Trainer:
    """A trainer in the middle of its work, with so many latents that count as dead."""
    settings = SAESettings(n_latents=n_latents, k=k, products=form)
    sae = SAE(dim, settings)
    start = starting_point(x.cpu(), settings)
    initialise(sae, start, seed=0)
    made = Trainer(sae.to(x.device), start.variance, 1_000)
    made.step(x)

    def again() -> None:
        # As many dead ones in every step, though some of them would come to life.
        made.idle[:dead] = settings.dead_after
        made.idle[dead:] = 0

    again()
    made.again = again  # type: ignore[attr-defined]
    return made


def step(of: Trainer, x: Tensor) -> Callable[[], None]:
    def work() -> None:
        of.step(x)
        of.again()  # type: ignore[attr-defined]

    return work


def floor(x: Tensor) -> Works:
    """What no training of this SAE can do without, alone."""
    encoder, decoder = (torch.nn.Parameter(torch.randn(L, D, device=x.device)) for _ in range(2))
    bias = torch.nn.Parameter(x.new_zeros(L))
    outputs = x.new_empty(len(x), L)
    optimizer = torch.optim.Adam([encoder, bias, decoder], fused=True)
    for parameter in (encoder, bias, decoder):
        parameter.grad = torch.randn_like(parameter)

    @torch.no_grad()
    def work() -> None:
        torch.addmm(bias, x, encoder.T, out=outputs)
        outputs.topk(K, dim=1, sorted=False)
        optimizer.step()

    return {"floor": work}


def wide(rounds: int, forms: list[str], device: str) -> None:
    x = torch.randn(B, D, device=device)
    works = floor(x)
    for form in forms:
        works[f"step, {form}"] = step(trainer(D, L, K, form, x), x)
        works[f"step, {form}, 5 % dead"] = step(trainer(D, L, K, form, x, DEAD), x)
    show(f"{D} -> {L:,}, k {K}, batch {B:,}", medians(works, rounds), "floor")


def paper(rounds: int, forms: list[str], device: str) -> None:
    x = torch.randn(512, 2_048, device=device)
    works: Works = {
        f"step, {form}": step(trainer(2_048, 2_048, 256, form, x), x) for form in ["dense", *forms]
    }
    chosen = trainer(2_048, 2_048, 256, "auto", x)
    works[f"step, chosen ({chosen.form})"] = step(chosen, x)
    show("2,048 -> 2,048, k 256, batch 512", medians(works, rounds), "step, dense")


def encode(rounds: int, device: str) -> None:
    x = torch.randn(B, D, device=device)
    sae = trainer(D, L, K, "sparse", x).sae
    outputs = x.new_empty(B, L)

    @torch.no_grad()
    def product() -> None:
        torch.addmm(sae.encoder_bias, x, sae.encoder.T, out=outputs)
        outputs.topk(K, dim=1, sorted=False)

    works: Works = {"product and topk": product, "encode_sparse": lambda: sae.encode_sparse(x)}
    show(f"codes in use, {D} -> {L:,}, batch {B:,}", medians(works, rounds), "product and topk")


@torch.no_grad()
def probes(rounds: int, device: str) -> None:
    n, k = 2_048, 256
    forms = [form for form in forms_on(torch.device(device), encoding=False) if form != "dense"]
    codes = kernels.topk_relu(torch.randn(PROBE_BATCH, n, device=device), k)
    weight, push = codes.new_empty(n, CLASSES).normal_(), codes.new_empty(PROBE_BATCH, CLASSES).normal_()
    logits, gradient = torch.empty_like(push), torch.empty_like(weight)
    works: Works = {
        "dense, forward": lambda: torch.mm(codes, weight, out=logits),
        "dense, backward": lambda: torch.mm(codes.T, push, out=gradient),
    }
    for form in forms:
        held = FORMS[form].where(codes > 0, codes)
        works[f"{form}, forward"] = lambda held=held: held.decode(push.new_zeros(CLASSES), weight, [n])
        works[f"{form}, backward"] = lambda held=held: held.outer([push], [n], gradient)
    seconds = medians(works, rounds)
    for way in ("forward", "backward"):
        part = {name: value for name, value in seconds.items() if way in name}
        show(
            f"codes [{PROBE_BATCH}, {n:,}], 1/8 active, and {n:,} x {CLASSES:,} weights",
            part,
            f"dense, {way}",
        )
    many = Codes.from_blocks([kernels.topk_relu(torch.randn(8 * PROBE_BATCH, n, device=device), k)])
    labels = torch.randint(100, (CLASSES // 100, len(many)))

    def trained(products: ProductsName, watch: Watch = SILENT) -> object:
        settings = ProbeSettings(epochs=5)
        return train_probes(many, labels, 100, settings, seed=0, watch=watch, products=products)

    said = Said()
    trained("auto", said)
    steps: Works = {f"steps, {products}": partial(trained, products) for products in ("dense", *forms)}
    show(
        f"{len(labels)} probes of 100 classes on such codes, 40 steps; auto chooses {said.form}",
        medians(steps, rounds),
        "steps, dense",
    )


class Said(SilentWatch):
    """Hears which form was chosen."""

    form = ""

    def record(self, event: str, **values: object) -> None:
        """Keep it."""
        self.form = str(values.get("form", self.form))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--only", default="wide,paper,encode,probes,peers")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    threadpool_limits(arguments.threads)
    torch.manual_seed(0)
    device = arguments.device
    forms = [form for form in forms_on(torch.device(device)) if form != "dense"]
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name() if device == 'cuda' else 'CPU'}, "
        f"{arguments.threads} threads, operators: {operators.why_not() or 'built'}, forms: {', '.join(forms)}"
    )
    asked = arguments.only.split(",")
    if "wide" in asked:
        wide(arguments.rounds, forms, device)
    if "paper" in asked:
        paper(arguments.rounds, forms, device)
    if "encode" in asked:
        encode(arguments.rounds, device)
    if "probes" in asked:
        probes(arguments.rounds, device)
    if "peers" in asked:
        peers(arguments.rounds, forms, device)


def peers(rounds: int, forms: list[str], device: str) -> None:
    """Other libraries' steps; each is skipped, saying so, where it is not installed."""
    x = torch.randn(B, D, device=device)
    chosen = trainer(D, L, K, "auto", x)
    works: Works = {"ours": step(chosen, x)}
    for name, module, make in (("SAELens", "sae_lens", saelens), ("sparsify", "sparsify", sparsify)):
        if find_spec(module) is None:
            print(f"\n{name}: not installed, skipped")
        else:
            works[name] = make(x)
    if len(works) > 1:
        title = f"steps, {D} -> {L:,}, k {K}, batch {B:,}; ours is {chosen.form}, by its own choice"
        show(title, medians(works, rounds), "ours")


def saelens(x: Tensor) -> Callable[[], None]:
    """A step of SAELens' TopK SAE."""
    from sae_lens.saes.sae import TrainStepInput
    from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig

    sae = TopKTrainingSAE(TopKTrainingSAEConfig(d_in=D, d_sae=L, k=K, device=str(x.device), dtype="float32"))
    optimizer = torch.optim.Adam(sae.parameters(), fused=True)
    dead = torch.zeros(L, dtype=torch.bool, device=x.device)

    def work() -> None:
        given = TrainStepInput(
            sae_in=x, coefficients={}, dead_neuron_mask=dead, n_training_steps=0, is_logging_step=False
        )
        output = sae.training_forward_pass(given)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()

    return work


def sparsify(x: Tensor) -> Callable[[], None]:
    """A step of sparsify's SparseCoder."""
    from sparsify import SparseCoder, SparseCoderConfig

    coder = SparseCoder(D, SparseCoderConfig(num_latents=L, k=K), device=x.device)
    optimizer = torch.optim.Adam(coder.parameters(), fused=True)

    def work() -> None:
        output = coder(x)
        optimizer.zero_grad()
        output.fvu.backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        coder.set_decoder_norm_to_unit_norm()

    return work


if __name__ == "__main__":
    main()

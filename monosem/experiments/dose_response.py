"""Dose-response: many doses of what may make features monosemantic, and what each gains under noisy labels.

A dose is the k of a sparse autoencoder on SimCLR's features, the epochs that NCL has trained, or a map of
SimCLR's features. Each is measured and probed twice: as it is, and rotated, which keeps the spectrum, hence
all that ridge probes see, and takes the axes, hence monosemanticity.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from monosem.core.errors import InputError
from monosem.core.nonlinearities import NONLINEARITIES, NonlinearityName
from monosem.core.progress import SilentWatch, Watch
from monosem.core.seeding import stream_seed
from monosem.data.codes import Codes
from monosem.data.feature_set import FeatureSet
from monosem.encoders.backbones import load_encoder
from monosem.encoders.embed import embed
from monosem.encoders.pretrain import pretrain
from monosem.experiments.encoder_pair import EncoderPair
from monosem.experiments.feature_sets import Features, Outputs
from monosem.experiments.grid import Outcome, ProbedFeatures, geometry, tuned_protocol
from monosem.experiments.pair_plan import noisy_label_facts, sae_stage, settings_facts
from monosem.experiments.recipe_parts import DoseGrid
from monosem.experiments.recipes import Recipe
from monosem.experiments.results import DOSE
from monosem.experiments.stage_cache import Stage
from monosem.experiments.works import Cost, Work
from monosem.measures.blocks import row_blocks
from monosem.robust.controls import rotation
from monosem.sparse.sae import SAE


@dataclass(frozen=True)
class Dose:
    """A feature set: its name, the stages it reads, how it is made, and works that come first."""

    name: str
    reads: Sequence[Stage]
    make: Callable[[], Features]
    before: Sequence[Work] = ()


def works(pair: EncoderPair) -> Iterator[Work]:
    """For every dose what it is made of, unless the pair has that anyway, and its results, twice."""
    recipe, grid = pair.recipe, pair.recipe.dose
    if grid is None:
        return
    check_doses(grid, recipe)
    costs = {work.stage.name: work.cost for work in pair.works}
    facts = {
        "seed": pair.seed,
        "classes": pair.data.train.n_classes,
        **noisy_label_facts(recipe, pair.data.train, pair.seed),
        **settings_facts(recipe.tuned),
    }
    for dose in (*_sae_doses(pair, grid, costs), *_ncl_doses(pair, grid, costs), *_map_doses(pair, grid)):
        yield from dose.before
        for features, is_rotated in ((dose.name, False), (f"rotated-{dose.name}", True)):
            stage = Stage("dose", {"features": features, **facts}, dose.reads)
            make = partial(_make, pair, dose, features, is_rotated)
            yield Work(stage, make, costs["tuned"], has_results=True)


def check_doses(grid: DoseGrid, recipe: Recipe) -> None:
    """Make sure that the recipe's autoencoder and pretraining have every dose.

    Raises:
        InputError: they have not.
    """
    n_latents, _ = recipe.sae.latents(recipe.pretrain.encoder.projector_out)
    most = {"sae_k": (n_latents, "latents"), "ncl_epochs": (recipe.pretrain.epochs, "epochs")}
    for name, (limit, unit) in most.items():
        doses = getattr(grid, name)
        if doses and doses[-1] > limit:
            raise InputError(f"dose.{name}: {doses[-1]} of {limit} {unit}; choose at most {limit}")


def _sae_doses(pair: EncoderPair, grid: DoseGrid, costs: dict[str, Cost]) -> Iterator[Dose]:
    recipe, simclr = pair.recipe, pair.stages.embedded["simclr"]
    _, usual_k = recipe.sae.latents(recipe.pretrain.encoder.projector_out)
    for k in grid.sae_k:
        stage, before = pair.stages.sae, []
        if k != usual_k:
            settings = recipe.sae.replace(k=k)
            stage = sae_stage(settings, simclr, pair.seed)
            before = [Work(stage, partial(pair.make_sae, settings, _Unrecorded(pair.watch)), costs["sae"])]
        yield Dose(f"{DOSE}sae-k={k}", (simclr, stage), partial(_codes, pair, stage), before)


def _codes(pair: EncoderPair, stage: Stage) -> Features:
    sae = SAE.load(pair.cache.folder(stage) / "sae").to(pair.world.device)
    encode = sae.encode_sparse if 2 * sae.k < sae.n_latents else sae.encode
    return _applied(encode, pair.bank.outputs("simclr"))


def _applied(transform: Callable[[Any], Tensor | Codes], to: Features | Outputs) -> Features:
    return Features(transform(to.train), transform(to.test), [])


def _ncl_doses(pair: EncoderPair, grid: DoseGrid, costs: dict[str, Cost]) -> Iterator[Dose]:
    n_epochs = pair.recipe.pretrain.epochs
    early = [epoch for epoch in grid.ncl_epochs if epoch < n_epochs]
    pretrained, embedded = pair.stages.pretrained["ncl"], pair.stages.embedded["ncl"]
    snapshots = Stage("pretrain-ncl-snapshots", {**pretrained.settings, "snapshots": early})
    before = []
    if early:
        seconds, megabytes = costs["pretrain-ncl"]
        cost = Cost(seconds * early[-1] / n_epochs, megabytes * len(early))
        make = partial(_make_snapshots, pair, early)
        before.append(Work(snapshots, make, cost, partial(_pretrain, pair, early)))
    for epoch in early:
        encoder = pair.cache.folder(snapshots) / _of_epoch(epoch)
        stage = Stage("embed-ncl-epoch", {**embedded.settings, "epoch": epoch}, [snapshots])
        make = partial(_make_embedded, pair, encoder)
        before.append(Work(stage, make, costs["embed-ncl"], partial(_embed, pair, encoder)))
        yield Dose(f"{DOSE}ncl-epoch={epoch}", [stage], partial(_non_negative, pair, encoder, stage), before)
        before = []
    if n_epochs in grid.ncl_epochs:
        encoder = pair.cache.folder(pretrained) / "encoder"
        features = partial(_non_negative, pair, encoder, embedded)
        yield Dose(f"{DOSE}ncl-epoch={n_epochs}", [embedded], features)


def _pretrain(pair: EncoderPair, epochs: Sequence[int], scratch: Path) -> None:
    """The pair's own NCL pretraining once more, as far as the last of `epochs`."""
    pretrain(
        pair.data.pretrain,
        pair.recipe.pretrain.replace(objective="ncl"),
        pair.seed,
        until=epochs[-1],
        snapshots={epoch: scratch / _of_epoch(epoch) for epoch in epochs},
        checkpoint=scratch / "state",
        watch=_Unrecorded(pair.watch),
    )


def _make_snapshots(pair: EncoderPair, epochs: Sequence[int], output: Path, scratch: Path) -> None:
    _pretrain(pair, epochs, scratch)
    for epoch in epochs:  # copied: until the output is whole, the state in `scratch` needs them
        shutil.copytree(scratch / _of_epoch(epoch), output / _of_epoch(epoch))


def _embed(pair: EncoderPair, encoder: Path, _: Path) -> dict[str, FeatureSet]:
    images = {"train": pair.data.train, "test": pair.data.test}
    return {of: embed(dataset, load_encoder(encoder), world=pair.world) for of, dataset in images.items()}


def _make_embedded(pair: EncoderPair, encoder: Path, output: Path, scratch: Path) -> None:
    for of, embedded in _embed(pair, encoder, scratch).items():
        embedded.save(output / of)


def _non_negative(pair: EncoderPair, encoder: Path, embedded: Stage) -> Features:
    of_split = (FeatureSet.open(pair.cache.folder(embedded) / split) for split in ("train", "test"))
    train, test = (torch.from_numpy(found.dense()).to(pair.world.device) for found in of_split)
    return _applied(load_encoder(encoder).features, Outputs(train, test, []))


def _of_epoch(epoch: int) -> str:
    return f"epoch-{epoch}"


def _map_doses(pair: EncoderPair, grid: DoseGrid) -> Iterator[Dose]:
    for name in grid.maps:
        make = partial(_mapped, pair, name)
        yield Dose(f"{DOSE}map={name}", [pair.stages.embedded["simclr"]], make)


def _mapped(pair: EncoderPair, name: NonlinearityName) -> Features:
    dense, sigma = pair.bank.outputs("simclr"), NONLINEARITIES[name]
    rms = dense.train.square().mean().sqrt()  # so that no factor on the features moves them along a sigmoid
    return _applied(lambda z: sigma(z / rms), dense)


def _make(pair: EncoderPair, dose: Dose, features: str, is_rotated: bool, output: Path, _: Path) -> None:
    made, device = dose.make(), pair.world.device
    if is_rotated:
        turn = rotation(made.train.shape[1], stream_seed(pair.seed, "control", features))
        made = _applied(lambda z: torch.cat([turn(block) for _, block in row_blocks(z)]), made)
    noisy, test = pair.noisy_labels.to(device), ProbedFeatures(pair.data.test.labels.to(device), made.test)
    rows = tuned_protocol(made.train, noisy, test, pair.recipe.tuned, pair.seed).rows
    pair.write_results(output, features, Outcome([*rows, *geometry(test, noisy.n_classes)], {}))


class _Unrecorded(SilentWatch):
    """Another watch without the readings of epochs, which are those of the pair's own trainings."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def progress(self, done: int, total: int, **values: float) -> None:
        """Pass it on."""
        self._watch.progress(done, total, **values)

    def notice(self, message: str) -> None:
        """Pass it on."""
        self._watch.notice(message)

    def should_pause(self) -> bool:
        """Ask the other."""
        return self._watch.should_pause()

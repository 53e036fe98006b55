"""The page that an SAE has on the Hugging Face Hub: what it is, how good, trained on what, how to load it."""

from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from monosem.sparse.sae import SAE

_NORMS = {
    "rms": "divided by one scale, {scale:.4g}",
    "layer": "each sample centred and divided by its own deviation",
    "none": "taken as they are",
}
_ACTIVATIONS = {
    "topk": "TopK, k = {k}",
    "batch_topk": "BatchTopK, k = {k} on average; used with a threshold",
    "jump_relu": "JumpReLU, one threshold a latent",
    "relu": "ReLU",
}
_READINGS = {
    "epoch": "Epochs",
    "fvu": "FVU, the fraction of variance unexplained",
    "l0": "L0, active latents of a sample on average",
    "dead": "Latents dead in training",
    "dead_share": "Share of latents dead in training",
}


def model_card(sae: SAE, repo_id: str, licence: str | None = None) -> str:
    """The README.md of `repo_id` (user/name), which holds `sae`; without a licence it says so."""
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {"library_name": "monosem", "tags": ["sparse-autoencoder", "interpretability", "saelens"]}
    counted = bool(sae.firing_counts.any())
    last = sae.history[-1] if sae.history else {}
    environment = Environment(
        loader=PackageLoader("monosem.sparse"),
        autoescape=False,  # Markdown
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("model_card.md.j2").render(
        head=yaml.safe_dump(head, sort_keys=False),
        repo_id=repo_id,
        sae=sae,
        activation=_ACTIVATIONS[sae.settings.activation].format(k=sae.k),
        norm=_NORMS[sae.settings.input_norm].format(scale=float(sae.input_scale)),
        dead=f"{sae.n_dead:,} ({sae.n_dead / sae.n_latents:.1%})" if counted else None,
        readings={_READINGS.get(name, name): _number(value) for name, value in last.items()},
        licence=licence,
    )


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"

"""Do monosemantic features make a model more robust? Measure it honestly, and ship what wins.

The public names below are imported when first used, so `import monosem` alone costs next to nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "FeatureSet": "monosem.data.feature_set",
    "RidgePath": "monosem.robust.ridge",
    "RidgeSettings": "monosem.robust.ridge",
    "SAE": "monosem.sparse.sae",
    "SAESettings": "monosem.sparse.sae_settings",
    "SparseAutoencoder": "monosem.sparse.estimator",
    "compare": "monosem.experiments.comparisons",
    "concept_latents": "monosem.measures.concept_latents",
    "corrupt_labels": "monosem.data.label_noise",
    "effective_dimension": "monosem.measures.geometry",
    "embed_images": "monosem.encoders.embed",
    "fit_sae": "monosem.sparse.train",
    "load_dataset": "monosem.data.datasets",
    "load_openai": "monosem.sparse.openai_layout",
    "load_recipe": "monosem.experiments.recipes",
    "load_saelens": "monosem.sparse.saelens",
    "matched_monosemanticity": "monosem.measures.consistency",
    "native_monosemanticity": "monosem.measures.consistency",
    "open_features": "monosem.data.npy_features",
    "pretrain": "monosem.encoders.pretrain",
    "probe_accuracy": "monosem.robust.probe_score",
    "pull_from_hub": "monosem.sparse.hub",
    "push_to_hub": "monosem.sparse.hub",
    "sae_quality": "monosem.sparse.evaluate",
    "save_openai": "monosem.sparse.openai_layout",
    "save_saelens": "monosem.sparse.saelens",
    "score_agreement": "monosem.measures.agreement",
    "similarity_monosemanticity": "monosem.measures.similarity",
    "train_probes": "monosem.robust.probe",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'monosem' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__

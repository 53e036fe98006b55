"""The examples of docs/sae-formats.md run as they are printed, but for those that need a network."""

import re
from pathlib import Path

import torch

import monosem

PAGE = (Path(__file__).parents[2] / "docs" / "sae-formats.md").read_text(encoding="utf-8")


def test_the_examples_without_a_network_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    features = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))
    settings = monosem.SAESettings(n_latents=8, k=2, epochs=1, input_norm="layer")
    sae = monosem.fit_sae(features, settings)
    names: dict[str, object] = {"sae": sae}
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    for example in examples:
        if "hub" not in example:
            exec(example, names)
            torch.testing.assert_close(names["sae"].encode(features), sae.encode(features))
    assert len(examples) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sae", "sae.pt"]

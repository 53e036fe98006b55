"""The README's Python example runs as it is printed."""

import re
from pathlib import Path

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_python_example_runs():
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    names: dict[str, object] = {}
    exec(example, names)
    assert names["codes"].shape == (1000, 128)
    assert (names["codes"] > 0).sum(dim=1).max() <= 8
    assert names["probe"].predict(names["codes"]).shape == (1, 1000)
    assert -1 < names["score"] < 1


def test_the_example_of_a_browser_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "looking-inside.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(example, {})
    assert "Words of reviews" in (tmp_path / "browser" / "index.html").read_text()

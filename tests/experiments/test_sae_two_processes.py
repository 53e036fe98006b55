"""`monosem sae` under a launcher: two processes train what one trains, one of them writes and speaks."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from monosem.core.artifacts import read_json
from monosem.experiments.sae_plan import asked_for
from monosem.experiments.sae_sweep import run_sweep
from monosem.sparse.sae import SAE

SCRIPT = Path(__file__).with_name("two_processes_sae.py")
LAUNCH = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT))
SETTINGS = ("latents=24", "epochs=2", "batch_size=33")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made of features in a file, and what one made."""
    folder = tmp_path_factory.mktemp("two")
    random = np.random.default_rng(0)
    np.save(folder / "x.npy", random.normal(size=(200, 12)) @ random.normal(size=(12, 12)))
    np.save(folder / "y.npy", np.arange(200) % 5)
    (folder / "taken").mkdir()
    (folder / "taken" / "thesis.tex").write_text("precious")
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    asked = ("x.npy", "--labels", "y.npy", "--sweep", "k=2,3", *settings, "--seeds", "2")
    command = [sys.executable, *LAUNCH, *asked]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (folder / "said.txt").write_text(done.stdout)
    (folder / "errors.txt").write_text(done.stderr)
    sweep = asked_for(folder / "x.npy", SETTINGS, ["k=2,3"], labels=folder / "y.npy", n_seeds=2)
    run_sweep(sweep, folder / "one", "monosem sae")
    return folder


def test_two_processes_train_what_one_trains(folder: Path) -> None:
    for place in [f"saes/k={k}/seed-{seed}" for k in (2, 3) for seed in (0, 1)]:
        one, two = (SAE.load(folder / of / place) for of in ("one", "two"))
        for name, expected in one.state_dict().items():
            torch.testing.assert_close(two.state_dict()[name], expected, rtol=1e-5, atol=1e-5, msg=name)
    one, two = (pd.read_csv(folder / of / "results.csv") for of in ("one", "two"))
    pd.testing.assert_frame_equal(two, one, rtol=1e-3)


def test_one_process_writes_and_speaks_for_both(folder: Path) -> None:
    assert (folder / "said.txt").read_text().count("Report: two/report.html") == 1
    manifest = read_json(folder / "two/manifest.json")
    assert (manifest["complete"], manifest["processes"]) == (True, 2)
    assert not (folder / "two/unfinished").exists()


def test_what_the_main_process_refuses_ends_both_with_one_line(folder: Path) -> None:
    assert [read_json(folder / f"codes-{rank}.json") for rank in (0, 1)] == [[2, 0], [2, 0]]
    said = [line for line in (folder / "errors.txt").read_text().splitlines() if line.startswith("error:")]
    assert said == ["error: taken: is not empty and holds no run; give another folder with --out DIR"]
    assert [path.name for path in (folder / "taken").iterdir()] == ["thesis.tex"]

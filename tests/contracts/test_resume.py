"""A run killed with SIGKILL at any moment goes on and ends with the same bits: three moments of them."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_and_resume.py"


def test_a_run_killed_three_times_ends_with_the_bits_of_one_in_a_go(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--quick", "--kills", "3", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    kills = [line for line in done.stdout.splitlines() if line.startswith("kill ")]
    assert len(kills) == 3
    # It went on from the middle of a stage, and what it was compared with is there.
    assert any("checkpoint" in line for line in kills)
    (weights,) = re.findall(r"(\d+) of them weights and features: 0 differ", done.stdout)
    assert int(weights) >= 20
    assert (tmp_path / "killed" / "run" / "results.csv").exists()

"""What each of two processes runs in test_sae_two_processes.py: the command line, twice.

torchrun ... two_processes_sae.py ARGUMENTS OF monosem sae     first into a folder that is refused
"""

import json
import os
import sys
from pathlib import Path

from monosem import cli

if __name__ == "__main__":
    codes = [cli._exit_code(["sae", *sys.argv[1:], "--out", out], debug=False) for out in ("taken", "two")]
    Path(f"codes-{os.environ['RANK']}.json").write_text(json.dumps(codes))

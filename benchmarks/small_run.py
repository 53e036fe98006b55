"""A small `monosem run digits` as a process to watch through its files and kill, for kill_and_resume.py."""

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from monosem.experiments.run import Request

SMALL = [
    "n_encoders=1",
    "n_noise=1",
    "label_noise.levels=[0.4, 0.8]",
    "input_noise.levels=[0.3]",
    "data.train_limit=400",
    "data.test_limit=150",
    "pretrain.encoder.width=8",
    "pretrain.encoder.projector_hidden=64",
    "pretrain.encoder.projector_out=64",
    "pretrain.batch_size=100",
    "pretrain.epochs=5",
    "sae.epochs=40",
    "sae.batch_size=200",
    "published.epochs=20",
    "published.batch_size=200",
    "tuned.per_decade=1",
]
OFTEN = "import monosem.core.checkpoints as c; c.SECONDS_BETWEEN, c.SAVES_BETWEEN = 0.0, 0.0"
MAIN = "import sys; from monosem.cli import main; main(sys.argv[1:])"
LOOK_EVERY = 0.002  # seconds; the writing of a checkpoint takes some ten milliseconds


@dataclass
class Run:
    """The folders of one run, and its process while there is one."""

    folder: Path
    quick: bool
    often: bool
    pid: int = 0
    code: int | None = None
    leftovers: set[str] = field(default_factory=set)

    @property
    def store(self) -> Path:
        """Where the stages lie."""
        return self.folder / "stages"

    @property
    def out(self) -> Path:
        """The run folder."""
        return self.folder / "run"

    @property
    def log(self) -> Path:
        """What all processes of this run said."""
        return self.folder / "stderr.txt"

    def start(self) -> None:
        """Start the command; what earlier processes left in the store is not its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.leftovers = {path.name for path in self.store.glob(".*.draft")}
        self.code = None
        with open(self.log, "a") as log:
            if self.quick:
                self.pid = os.fork()
                if self.pid == 0:
                    os.dup2(log.fileno(), sys.stderr.fileno())
                    run_here(self)
            else:
                command = [sys.executable, "-c", f"{OFTEN if self.often else ''}\n{MAIN}", "run", "digits"]
                command += ["--out", str(self.out), "--store", str(self.store)]
                command += [word for setting in SMALL for word in ("--set", setting)]
                streams = [(os.POSIX_SPAWN_DUP2, log.fileno(), descriptor) for descriptor in (1, 2)]
                self.pid = os.posix_spawn(sys.executable, command, os.environ, file_actions=streams)

    def ended(self) -> bool:
        """Whether the process has ended; `code` then says how."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is not None

    def wait_for(self, condition: Callable[[], bool]) -> bool:
        """Look often until the condition holds (true) or the process has ended (false)."""
        while not condition():
            if self.ended():
                return False
            time.sleep(LOOK_EVERY)
        return True

    def finish(self) -> None:
        """Let the process come to its end."""
        _, status = os.waitpid(self.pid, 0)
        self.code = os.waitstatus_to_exitcode(status)

    def kill(self) -> None:
        """As `kill -9` does."""
        os.kill(self.pid, signal.SIGKILL)
        while not self.ended():
            time.sleep(LOOK_EVERY)

    def stage_at_work(self) -> str:
        """The key of the stage whose draft this process has made, or nothing."""
        for path in self.store.glob(".*.draft"):
            if path.name not in self.leftovers:
                return path.name[1:].split(".")[0]
        return ""

    def has_tables(self) -> bool:
        """Whether only the reports are missing."""
        log = self.out / "log.jsonl"
        return log.exists() and "tables complete" in log.read_text()

    def is_made(self, stage: str) -> bool:
        """Whether the stage is complete."""
        return (self.store / stage).exists()

    def checkpoints(self, stage: str) -> list[Path]:
        """The complete checkpoints of a stage, oldest first."""
        return sorted(p for p in (self.store / "unfinished" / stage).glob("*") if p.name.isdecimal())

    def half_written(self, stage: str) -> set[str]:
        """Names of the checkpoints of a stage that are or were being written."""
        return {path.name for path in (self.store / "unfinished" / stage).glob(".*.draft")}


def request(folder: Path) -> "Request":
    """The run as the command makes it of its arguments."""
    from monosem.experiments.recipes import load_recipe
    from monosem.experiments.run import Request

    return Request(load_recipe("digits", SMALL), out=folder / "run", store=folder / "stages", command="")


def import_once() -> None:
    """Import what a run imports, for all forks."""
    import monosem.report.console  # noqa: F401
    from monosem.experiments.run import dry_run_lines

    with tempfile.TemporaryDirectory() as nowhere:
        dry_run_lines(request(Path(nowhere)))


def run_here(run: Run) -> None:
    """Do what the command does, short of the reports; ends this process, which is a fork."""
    from monosem.experiments.run import RunWatch, run_recipe
    from monosem.report.console import progress_display

    try:
        if run.often:
            exec(OFTEN)
        with progress_display() as display:
            run_recipe(request(run.folder), RunWatch(None, display))
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)

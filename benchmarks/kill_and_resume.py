"""A run killed again and again against one that was not: the same bits in every file?

    python benchmarks/kill_and_resume.py [--kills 20] [--seed 0] [--quick] [--folder DIR]

`monosem run digits`, made small, is killed with SIGKILL at random moments and started again with the same
command until it ends. Half of the moments are spread over the whole run; the other half lie inside the
writing of a checkpoint, in every stage that keeps some. Now and then the newest one is damaged as well.
Then every table and file of every stage is compared with those of a run in one go that wrote no checkpoint.
Exit code 1 if anything differs, or if damage was not told.

So that there is something to hit, the run that is killed spends a quarter of its time on checkpoints.
"""

import argparse
import json
import os
import random
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
    "data.train_limit=600",
    "data.test_limit=200",
    "pretrain.encoder.width=8",
    "pretrain.encoder.projector_hidden=64",
    "pretrain.encoder.projector_out=64",
    "pretrain.batch_size=100",
    "pretrain.epochs=5",
    "sae.epochs=60",
    "sae.batch_size=200",
    "published.epochs=50",
    "published.batch_size=200",
    "tuned.per_decade=1",
]
STEPS = {"pretrain-simclr": 30, "pretrain-ncl": 30, "sae": 180, "published": 150}
"""Steps of the stages that keep checkpoints."""
OFTEN = "import monosem.core.checkpoints as c; c.SECONDS_BETWEEN, c.SAVES_BETWEEN = 0.0, 3.0"
MAIN = "import sys; from monosem.cli import main; main(sys.argv[1:])"
LOOK_EVERY = 0.0005  # seconds; the writing of a checkpoint takes some ten milliseconds
NOT_PART_OF_THE_RESULT = {"stage.json", "checksums.json"}  # hold times, and the digest of that file


@dataclass(frozen=True)
class Kill:
    """Where to kill: this share of a stage done, and then some seconds later or at the next checkpoint."""

    stage: str
    share: float
    delay: float
    in_a_write: bool

    @property
    def step(self) -> int:
        """The step after which to kill, in a stage that keeps checkpoints."""
        return round(self.share * STEPS[kind(self.stage)])


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
        self.wait_for(lambda: False)

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

    def is_made(self, stage: str) -> bool:
        """Whether the stage is complete."""
        return (self.store / stage).exists()

    def checkpoints(self, stage: str) -> list[Path]:
        """The complete checkpoints of a stage, oldest first."""
        return sorted(p for p in (self.store / "unfinished" / stage).glob("*") if p.name.isdecimal())

    def half_written(self, stage: str) -> set[str]:
        """Names of the checkpoints of a stage that are or were being written."""
        return {path.name for path in (self.store / "unfinished" / stage).glob(".*.draft")}


def kind(stage: str) -> str:
    """What a stage is called, without its hash."""
    return stage.rpartition("-")[0]


def plan(stages: list[tuple[str, float]], n_kills: int, draws: random.Random) -> list[Kill]:
    """Moments in the order of the run whose stages took so many seconds each."""
    names, seconds = zip(*stages, strict=True)
    kills = []
    for stage in draws.choices(names, seconds, k=n_kills - n_kills // 2):
        delay = 0.1 if kind(stage) in STEPS else dict(stages)[stage]
        kills.append(Kill(stage, draws.uniform(0.0, 0.95), draws.uniform(0.0, delay), in_a_write=False))
    keeping = [stage for stage in names if kind(stage) in STEPS]
    draws.shuffle(keeping)
    for number in range(n_kills // 2):
        stage = keeping[number % len(keeping)]
        kills.append(Kill(stage, draws.uniform(0.0, 0.9), 0.0, in_a_write=True))
    return sorted(kills, key=lambda kill: (names.index(kill.stage), kill.share))


def kill_once(run: Run, kill: Kill) -> str:
    """Start the command and kill it there; the stage that was at work ("none" between two), "" at the end."""
    earlier = {path.name for path in run.checkpoints(kill.stage)}
    run.start()

    def is_there() -> bool:
        """Whether the stage has come so far; one that was made already is as good as any."""
        if run.is_made(kill.stage) or run.stage_at_work() != kill.stage:
            return run.is_made(kill.stage) and bool(run.stage_at_work())
        if kind(kill.stage) not in STEPS:
            return True
        newest = run.checkpoints(kill.stage)[-1:]
        return bool(newest) and newest[0].name not in earlier and done(newest[0]) >= kill.step

    if not run.wait_for(is_there):
        return ""
    if kill.in_a_write:
        before = run.half_written(kill.stage)
        run.wait_for(lambda: bool(run.half_written(kill.stage) - before) or run.is_made(kill.stage))
    else:
        until = time.monotonic() + kill.delay
        run.wait_for(lambda: time.monotonic() >= until)
    if run.ended():
        return ""
    stage = run.stage_at_work()
    run.kill()
    return stage or "none"


def done(checkpoint: Path) -> int:
    """Steps done in a complete checkpoint."""
    try:
        return int(json.loads((checkpoint / "state.json").read_text())["facts"]["done"])
    except FileNotFoundError:  # it was removed just now, after a newer one was complete
        return 0


def flip_a_byte(checkpoint: Path, draws: random.Random) -> None:
    """Damage one of its files as a bad disk may."""
    file = draws.choice(sorted(checkpoint.iterdir()))
    data = bytearray(file.read_bytes())
    data[draws.randrange(len(data))] ^= 1 << draws.randrange(8)
    file.write_bytes(data)


def found(run: Run, stage: str) -> str:
    """What the next start will find of a stage."""
    checkpoints = run.checkpoints(stage)
    parts = ["a half-written checkpoint"] if run.half_written(stage) else []
    if checkpoints:
        parts.append(f"checkpoint {int(checkpoints[-1].name)} of step {done(checkpoints[-1])}")
    return " and ".join(parts) or "nothing of this stage"


def kill_and_resume(run: Run, kills: list[Kill], draws: random.Random) -> list[str]:
    """Kill the run at each of these moments, then let it end; what went wrong."""
    made, damaged = 0, []
    for number, kill in enumerate(kills, start=1):
        stage = kill_once(run, kill)
        if not stage:
            break
        made += 1
        name = kind(stage) or "between stages"
        where = "in a write" if run.half_written(stage) else "at work"
        line = f"kill {number:2}: {name:19} {where:10}  found {found(run, stage)}"
        if number % 3 == 0 and len(run.checkpoints(stage)) == 2:
            newest = run.checkpoints(stage)[-1]
            flip_a_byte(newest, draws)
            damaged.append(f"{newest}: damaged, going on from the one before it")
            line += "; one byte of it flipped"
        print(line, flush=True)
    if run.code is None or run.code < 0:
        run.start()
        run.finish()
    print(f"{made} of {len(kills)} kills were made before the run ended")
    said = run.log.read_text()
    faults = [f"not told: {line}" for line in damaged if line not in said]
    if run.code:
        faults.append(f"the command ended with {run.code}: {said.strip()[-500:]}")
    if any((run.store / "unfinished").rglob("*")):
        faults.append("checkpoints of finished stages are still there")
    return faults


def contents(run: Run) -> dict[str, bytes]:
    """Every file that belongs to the result, by its name."""
    files = [path for path in run.store.glob("[!.]*/**/*") if path.is_file()]
    found = {path.relative_to(run.store).as_posix(): path for path in files}
    found |= {name: run.out / name for name in ("results.csv", "comparisons.csv")}
    return {
        name: path.read_bytes() if path.exists() else b"missing"
        for name, path in found.items()
        if path.name not in NOT_PART_OF_THE_RESULT
    }


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="fork Python instead of starting it; no reports")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # the same bits need the same number of threads
    if arguments.quick:
        import_once()
    draws = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        whole = Run(folder / "whole", arguments.quick, often=False)
        whole.start()
        whole.finish()
        if whole.code:
            sys.exit(f"the run in one go ended with {whole.code}: {whole.log.read_text()}")
        events = [json.loads(line) for line in (whole.out / "log.jsonl").read_text().splitlines()]
        stages = [(event["stage"], event["seconds"]) for event in events if event["event"] == "stage made"]
        print(
            f"{len(stages)} stages took {sum(seconds for _, seconds in stages):.1f} s in one go", flush=True
        )
        killed = Run(folder / "killed", arguments.quick, often=True)
        faults = kill_and_resume(killed, plan(stages, arguments.kills, draws), draws)
        expected, got = contents(whole), contents(killed)
        differing = [name for name in sorted(expected | got) if expected.get(name) != got.get(name)]
        faults += [f"{name}: differs" for name in differing]
    weights = sum(name.endswith((".safetensors", ".npy")) for name in expected)
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{len(expected)} files, {weights} of them weights and features: {len(differing)} differ")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

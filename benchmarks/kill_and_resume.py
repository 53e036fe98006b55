"""A run killed again and again against one that was not: the same bits in every file?

    python benchmarks/kill_and_resume.py [--kills 20] [--seed 0] [--quick] [--folder DIR]

`monosem run digits`, made small, is killed with SIGKILL at random moments and started again with the same
command until it ends. Half of the moments are spread over the whole run, its start and its reports included;
the other half lie inside the writing of a checkpoint, in every stage that keeps some. Now and then the newest
one is damaged as well. Then every table and every file of every stage is compared with those of a run in one
go that wrote no checkpoint. Exit code 1 if anything differs, a draft stays behind, or damage was not told.

So that there is something to hit, the run that is killed writes a checkpoint after every step.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from small_run import Run, import_once

STEPS = {"pretrain-simclr": 20, "pretrain-ncl": 20, "sae": 80, "published": 40}
"""Steps of the stages that keep checkpoints."""
START, REPORTS = "start", "reports"
"""What comes before the stages and after them."""
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


def kind(stage: str) -> str:
    """What a stage is called, without its hash."""
    return stage.rpartition("-")[0]


def plan(stages: list[tuple[str, float]], n_kills: int, quick: bool, draws: random.Random) -> list[Kill]:
    """Moments in the order of the run whose stages took so many seconds each."""
    names, seconds = zip(*stages, strict=True)
    kills = []
    if not quick:  # a few seconds each on any machine
        kills += [Kill(part, 0.0, draws.uniform(0.0, 4.0), in_a_write=False) for part in (START, REPORTS)]
    for stage in draws.choices(names, seconds, k=n_kills // 2 - len(kills)):
        delay = 0.1 if kind(stage) in STEPS else dict(stages)[stage]
        kills.append(Kill(stage, draws.uniform(0.0, 0.95), draws.uniform(0.0, delay), in_a_write=False))
    keeping = [stage for stage in names if kind(stage) in STEPS]
    draws.shuffle(keeping)
    for number in range(n_kills - n_kills // 2):
        stage = keeping[number % len(keeping)]
        kills.append(Kill(stage, draws.uniform(0.0, 0.9), 0.0, in_a_write=True))
    order = [START, *names, REPORTS]
    return sorted(kills, key=lambda kill: (order.index(kill.stage), kill.share))


def kill_once(run: Run, kill: Kill) -> str:
    """Start the command and kill it there; the stage that was at work ("none" between two), "" at the end."""
    earlier = {path.name for path in run.checkpoints(kill.stage)}
    run.start()

    def is_there() -> bool:
        """Whether the stage has come so far; one that was made already is as good as any."""
        if kill.stage in (START, REPORTS):
            return kill.stage == START or run.has_tables()
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
        name = kind(stage) or (kill.stage if kill.stage in (START, REPORTS) else "between stages")
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
        total = sum(seconds for _, seconds in stages)
        print(f"{len(stages)} stages took {total:.1f} s in one go", flush=True)
        killed = Run(folder / "killed", arguments.quick, often=True)
        faults = kill_and_resume(killed, plan(stages, arguments.kills, arguments.quick, draws), draws)
        expected, got = contents(whole), contents(killed)
        differing = [name for name in sorted(expected | got) if expected.get(name) != got.get(name)]
        faults += [f"{name}: differs" for name in differing]
        faults += [f"{path}: a draft that nobody swept" for path in killed.folder.rglob(".*.draft")]
    weights = sum(name.endswith((".safetensors", ".npy")) for name in expected)
    for fault in faults:
        print(f"FAULT: {fault}")
    print(f"{len(expected)} files, {weights} of them weights and features: {len(differing)} differ")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()

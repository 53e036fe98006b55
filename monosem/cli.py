"""The command line: one function per verb, no logic: parse, call, print.

Everything heavy is imported inside the verbs, so that `monosem --help` answers at once.
"""

import os
import shlex
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from monosem import __version__
from monosem.core.errors import INTERRUPTED_EXIT_CODE, MonosemError, Paused

if TYPE_CHECKING:
    from monosem.experiments.recipes import Recipe
    from monosem.experiments.run import Request
    from monosem.experiments.toy_recipe import ToyRecipe
    from monosem.experiments.tuning_recipe import TuningRecipe

app = typer.Typer(
    name="monosem",
    help="Do monosemantic features make a model more robust? Measure it with honest statistics.",
    epilog="Start with `monosem demo`: real images to a verdict in a few minutes. --debug shows tracebacks.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

llm = typer.Typer(help="Language models (extra `llm`).", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(llm, name="llm")

Override = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a setting, e.g. sae.k=64.")
]
Out = Annotated[Path | None, typer.Option(metavar="DIR", help="Run folder (default: runs/RECIPE).")]
Store = Annotated[Path, typer.Option(metavar="DIR", help="Where stages are kept and found again.")]
StopAfter = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", min=0, help="Save and exit 75 after this time; go on later."),
]
Track = Annotated[
    bool, typer.Option("--track", help="Write training curves for TensorBoard too (extra `track`).")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="List stages, what is cached, time and disk; do nothing.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a finished run.")]


@app.command()
def demo(
    overrides: Override = None,
    out: Out = None,
    store: Store = Path("runs/stages"),
    stop_after: StopAfter = None,
    track: Track = False,
    dry_run: DryRun = False,
) -> None:
    """Go from real images to an honest verdict (= run digits)."""
    from monosem.experiments.recipes import load_recipe

    digits = load_recipe("digits", overrides or ())
    _run(_request(digits, "digits", out, store), stop_after, track, dry_run)


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A name from `monosem list`, or a .yaml file.")],
    overrides: Override = None,
    out: Out = None,
    store: Store = Path("runs/stages"),
    stop_after: StopAfter = None,
    track: Track = False,
    dry_run: DryRun = False,
) -> None:
    """Run a recipe, or go on where it was stopped."""
    from monosem.experiments.recipes import load_any_recipe
    from monosem.experiments.toy_recipe import ToyRecipe
    from monosem.experiments.tuning_recipe import TuningRecipe

    loaded = load_any_recipe(recipe, overrides or ())
    folder = out or Path("runs") / Path(recipe).stem
    if isinstance(loaded, TuningRecipe):
        _run_tuning(loaded, folder, store, stop_after, dry_run)
    elif isinstance(loaded, ToyRecipe):
        _run_toy(loaded, folder, store, stop_after, dry_run)
    else:
        _run(_request(loaded, recipe, out, store), stop_after, track, dry_run)


@app.command("list")
def list_recipes() -> None:
    """List the recipes that come with monosem."""
    from monosem.experiments.recipe_files import recipe_titles

    titles = recipe_titles()
    width = max(map(len, titles))
    for name, title in titles.items():
        print(f"{name:{width}} {title}")


@app.command()
def show(recipe: Annotated[str, typer.Argument(help="A name from `monosem list`, or a .yaml file.")]) -> None:
    """Print a recipe, to read or to save and change."""
    from monosem.experiments.recipe_files import recipe_source

    print(recipe_source(recipe), end="")


@app.command()
def report(run: RunArgument) -> None:
    """Write a finished run's reports again from its tables."""
    from monosem.report import screen, write_reports

    write_reports(run)
    print(screen(run))


@app.command()
def browse(
    run: RunArgument,
    features: Annotated[
        list[str] | None,
        typer.Option(metavar="SET", help="A feature set, again for more (default: simclr, ncl, sae)."),
    ] = None,
    level: Annotated[
        float | None,
        typer.Option(help="Label noise of the classifiers (default: the highest that leaves a signal)."),
    ] = None,
    pair: Annotated[int, typer.Option(help="Number of the encoder pair.")] = 0,
    limit: Annotated[int, typer.Option(help="Most features of a set.")] = 5000,
    choose: Annotated[
        str, typer.Option(help="Which, where there are more: matched, native, entropy or number.")
    ] = "matched",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Default: RUN/browser.")] = None,
    store: Store = Path("runs/stages"),
) -> None:
    """Make a page to look at a run's single features, and at what classifiers make of them."""
    from monosem.experiments.run import RunWatch
    from monosem.report.console import progress_display
    from monosem.report.run_browser import browse_run

    with progress_display() as display:
        written = browse_run(
            run,
            out or run / "browser",
            store,
            sets=features,
            level=level,
            pair=pair,
            limit=limit,
            choose=choose,
            watch=RunWatch.of_one("features", 60.0, display),
        )
    print(written)


@app.command()
def sae(
    features: Annotated[
        Path, typer.Argument(metavar="FEATURES", help="A .npy file of floats [N, D], or a feature set.")
    ],
    more: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=V,V...]...", help="More for --sweep.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=V,V...", help="What varies, e.g. k=16,32 latents=1024,4096."),
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of all, e.g. epochs=10.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .npy file of the classes of FEATURES, ints [N].")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(metavar="FEATURES", help="Features of other samples, to measure on.")
    ] = None,
    held_out_labels: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Theirs, if they are in a .npy file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of first dictionaries and order.")] = 0,
    seeds: Annotated[
        int, typer.Option(metavar="N", min=1, help="First dictionaries of each SAE, for intervals.")
    ] = 1,
    window: Annotated[
        int, typer.Option(metavar="MIB", min=1, help="Memory for features on disk, read in windows.")
    ] = 512,
    out: Annotated[Path, typer.Option(metavar="DIR", help="Run folder.")] = Path("runs/sae"),
    stop_after: StopAfter = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List SAEs, what is there, time and disk; do nothing.")
    ] = False,
) -> None:
    """Train sparse autoencoders on features; of several shapes, side by side."""
    from monosem.core.distributed import this_world
    from monosem.experiments.run import RunWatch
    from monosem.experiments.sae_plan import asked_for
    from monosem.experiments.sae_sweep import dry_run_lines, run_sweep
    from monosem.report import screen, write_reports
    from monosem.report.console import progress_display

    asked = asked_for(
        features,
        overrides or (),
        [*(sweep or ()), *(more or ())],
        labels=labels,
        held_out=held_out,
        held_out_labels=held_out_labels,
        seed=seed,
        n_seeds=seeds,
        window_bytes=window * 2**20,
    )
    if dry_run:
        print("\n".join(dry_run_lines(asked, out)))
        return
    if not this_world().is_main:  # one process shows and reports for all
        run_sweep(asked, out, _command_line())
        return
    with progress_display() as display:
        run_sweep(asked, out, _command_line(), RunWatch.of_one("sae", asked.seconds, display, stop_after))
        write_reports(out)
    print(screen(out))


@app.command()
def compare(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Folder of a finished run.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Folder of another.")],
) -> None:
    """Set two runs side by side, verdicts and settings."""
    from monosem.report import tables

    print(tables.side_by_side(run_a, run_b))


@app.command()
def doctor() -> None:
    """Show versions, devices, disk and missing extras."""
    from monosem.report.health import health_report

    print(health_report())


@llm.command()
def tune(
    base: Annotated[str, typer.Option(help="Hub id, folder, .gguf file, or a package that holds one.")],
    data: Annotated[str, typer.Option(help="sst2, dolly, or a JSONL of instruction and response.")],
    adapter: Annotated[str, typer.Option(help="lora, monolora or both.")] = "both",
    root: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the data.")] = Path(),
    out: Out = None,
    store: Store = Path("runs/stages"),
    epochs: Annotated[int, typer.Option(help="The paper takes 20 for sst2, 1 for dolly.")] = 1,
    batch_size: Annotated[int, typer.Option(help="Samples of a step.")] = 16,
    lr: Annotated[float, typer.Option(help="Learning rate.")] = 1e-4,
    rank: Annotated[int, typer.Option(help="Of A and B; alpha is the same.")] = 8,
    n_train: Annotated[int, typer.Option(help="Training samples.")] = 5000,
    n_test: Annotated[int, typer.Option(help="Test samples.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of data, adapters and order.")] = 0,
    quantise: Annotated[str | None, typer.Option(help="4bit or 8bit (extra `quant`).")] = None,
    stop_after: StopAfter = None,
    dry_run: DryRun = False,
) -> None:
    """Tune adapters on a task and measure them before and after; the run folder holds them."""
    from monosem.experiments.tuning_recipe import task_recipe

    recipe = task_recipe(
        base,
        data,
        ("lora", "monolora") if adapter == "both" else (adapter,),
        str(root),
        quantise=quantise,
        rank=rank,
        n_train=n_train,
        n_test=n_test,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        seed=seed,
    )
    _run_tuning(recipe, out or Path("runs") / f"tune-{Path(data).stem}", store, stop_after, dry_run)


@llm.command()
def judge(
    prompts: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSONL of prompts, or of prompts and answers.")
    ],
    base: Annotated[
        str | None, typer.Option(help="Who answers; without, the file's answers are judged.")
    ] = None,
    adapter: Annotated[Path | None, typer.Option(metavar="DIR", help="Adapter of the base.")] = None,
    by: Annotated[str, typer.Option(help="refusal (rules), shieldgemma or beavertails.")] = "refusal",
    judge_model: Annotated[
        str | None, typer.Option(help="The judge's hub id or folder (default: paper's).")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Gets a line for each prompt.")] = Path(
        "judged.jsonl"
    ),
    max_new_tokens: Annotated[int, typer.Option(help="Of an answer.")] = 128,
    batch_size: Annotated[int, typer.Option(help="Prompts at a time.")] = 16,
) -> None:
    """Judge a model's answers to prompts, by rules or by a moderation model."""
    from monosem.llm.base import quieten

    quieten()
    from monosem.experiments.run import RunWatch
    from monosem.llm.judging import judge_file
    from monosem.report.console import progress_display

    with progress_display() as display:
        numbers = judge_file(
            prompts,
            out,
            base=base,
            adapter=adapter,
            judge=by,
            judge_model=judge_model,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            watch=RunWatch.of_one("judging", 60.0, display),
        )
    print(f"{numbers}\nWritten to {out}")


def _request(recipe: "Recipe", name: str, out: Path | None, store: Path) -> "Request":
    from monosem.experiments.run import Request

    return Request(
        recipe=recipe,
        out=out or Path("runs") / Path(name).stem,
        store=store,
        command=_command_line(),
    )


def _run(request: "Request", stop_after: float | None, track: bool, dry_run: bool) -> None:
    from monosem.core.distributed import this_world
    from monosem.experiments.run import RunWatch, dry_run_lines, run_recipe
    from monosem.report import tables, write_reports
    from monosem.report.console import progress_display
    from monosem.report.tensorboard import training_curves

    if dry_run:
        print("\n".join(dry_run_lines(request)))
        return
    if not this_world().is_main:  # one process shows and reports for all
        run_recipe(request, RunWatch())
        return
    with progress_display() as display, training_curves(request.out, track) as curves:
        run_recipe(request, RunWatch(stop_after, display, curves))
        write_reports(request.out)
    print(tables.verdict_screen(request.out))


def _run_tuning(
    recipe: "TuningRecipe", out: Path, store: Path, stop_after: float | None, dry_run: bool
) -> None:
    from monosem.llm.base import quieten

    quieten()
    from monosem.experiments.tuning_run import dry_run_lines, run_tuning

    _run_stages(run_tuning, dry_run_lines, recipe, out, store, stop_after, dry_run)


def _run_toy(recipe: "ToyRecipe", out: Path, store: Path, stop_after: float | None, dry_run: bool) -> None:
    from monosem.experiments.toy_run import dry_run_lines, run_toy

    _run_stages(run_toy, dry_run_lines, recipe, out, store, stop_after, dry_run)


def _run_stages(
    run: Callable[..., None],
    dry_run_lines: Callable[..., list[str]],
    recipe: Any,
    out: Path,
    store: Path,
    stop_after: float | None,
    dry_run: bool,
) -> None:
    from monosem.experiments.run import RunWatch
    from monosem.report import screen, write_reports
    from monosem.report.console import progress_display

    if dry_run:
        print("\n".join(dry_run_lines(recipe, out, store)))
        return
    with progress_display() as display:
        run(recipe, out, store, _command_line(), RunWatch(stop_after, display))
        write_reports(out)
    print(screen(out))


def _command_line() -> str:
    """The command that makes this run, as it can be typed again: without what only steers the session."""
    passing = ("--debug", "--track")
    words = [word for word in sys.argv[1:] if word not in passing and not word.startswith("--stop-after=")]
    if "--stop-after" in words:
        at = words.index("--stop-after")
        del words[at : at + 2]
    return shlex.join(["monosem", *words])


def _show_version(value: bool) -> None:
    if value:
        print(f"monosem {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 2 input at fault, 75 paused, 130 interrupted, 1 else."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(_exit_code([word for word in given if word != "--debug"] or ["--help"], debug))


def _exit_code(arguments: list[str], debug: bool) -> int:
    """Run the verb; every failure becomes one line on stderr and a code."""
    try:
        outcome: Any = app(arguments, prog_name="monosem", standalone_mode=False)
    except Paused as paused:
        _say(str(paused))
        return paused.exit_code
    except Exception as error:
        if debug:
            raise
        _say(f"error: {_one_line(error)}")
        return getattr(error, "exit_code", 1)
    if outcome == INTERRUPTED_EXIT_CODE:  # how typer hands on Ctrl-C
        _say("error: interrupted; the same command goes on from what is finished")
    return outcome if isinstance(outcome, int) else 0


def _say(line: str) -> None:
    """Print a line on stderr; of several processes, the first speaks for all."""
    if os.environ.get("RANK", "0") == "0":
        print(line, file=sys.stderr)


def _one_line(error: Exception) -> str:
    if hasattr(error, "format_message"):  # a usage error of the command line's own
        return f"{error.format_message().rstrip('.')}; see monosem --help"
    if isinstance(error, MonosemError):
        return " ".join(str(error).split())
    return f"{type(error).__name__}: {' '.join(str(error).split())}; run again with --debug for the traceback"

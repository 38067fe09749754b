"""The command line: what can be asked, exit codes, and one sentence for every mistake."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, cast

import click

from harness import exits
from harness.settings import OPTIONS, Option, Settings, UsageProblem, nearest, unknown

EPILOG = """\b
Exit codes: 0 valid, 1 invalid, 2 unknown, 130 interrupted,
254 the command was mistaken, 255 the harness itself failed.
"""


class Commands(click.Group):
    """Names the nearest command when one is not known."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            raise unknown("command", name, self.list_commands(ctx))
        return super().resolve_command(ctx, args)


CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
FILE = click.Path(path_type=Path)


@click.group(cls=Commands, context_settings=CONTEXT, epilog=EPILOG, no_args_is_help=True)
@click.version_option(package_name="sunder", prog_name="sunder")
def cli() -> None:
    """Breaks a Dynamo-style store on purpose, records what its clients saw, and decides whether that could
    have been right.

    \b
        sunder run                            a test in the simulator: seconds, no Docker, no root
        sunder run --mutant hint-pop-first    the same on a store with a planted bug
        sunder run --world docker             real nodes in containers
    """


def setting_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Adds a flag for every setting; none has a default, so that what was not said can come from elsewhere."""
    for option in reversed(OPTIONS):
        function = click.option(*_declaration(option), **_attributes(option))(function)
    return function


def _declaration(option: Option) -> list[str]:
    both = f"--{option.name}/--{option.off}" if option.off else f"--{option.name}"
    return [both, option.field]


def _attributes(option: Option) -> dict[str, Any]:
    plain = getattr(Settings(), option.field)
    shown = ", ".join(cast("tuple[str, ...]", plain)) if isinstance(plain, tuple) else plain
    if isinstance(plain, float):
        shown = f"{plain:g}" if option.field == "rate" else f"{plain:g}s"
    default = f"  [default: {shown}]" if plain is not None and not isinstance(plain, bool) else ""
    if isinstance(plain, bool):
        return {"default": None, "help": option.sentence, **({} if option.off else {"is_flag": True})}
    return {"default": None, "metavar": option.metavar, "help": f"{option.sentence}{default}"}


@cli.command(context_settings={"show_default": False})
@setting_options
@click.option(
    "--config",
    type=FILE,
    metavar="FILE",
    help="settings from a YAML file; flags beat SUNDER_* variables beat it",
)
@click.option("--dry-run", is_flag=True, help="print the faults this seed would strike with, and run nothing")
@click.option("--json", "as_json", is_flag=True, help="the outcome as one line of JSON")
@click.option(
    "--list",
    "names",
    is_flag=True,
    help="print every combination, scene, workload, nemesis, checker and mutant",
)
def run(config: Path | None, dry_run: bool, as_json: bool, names: bool, **flags: Any) -> int:
    """Run one test and judge it.

    Ends with the verdict in a sentence, a witness where there is one, the report's path, and the command that
    repeats the run. In the simulator a seed repeats a run byte for byte; in containers it repeats only what is
    asked for, not the timing.

    \b
        sunder run --nemesis partition,kill --time 30s
        sunder run --combination handoff-only --seed 7
        sunder run --scene stale-rejoin
        sunder run --mutant no-dots --json
        sunder run --world docker --time 60s
    """
    from harness.commands import run as command

    if names:
        return command.show_names()
    said = {key: value for key, value in flags.items() if value is not None}
    return command.run(said, config=config, dry_run=dry_run, as_json=as_json)


@cli.command()
@click.argument("paths", type=FILE, nargs=-1, required=True, metavar="PATH...")
@click.option(
    "--checker", "checkers", multiple=True, metavar="NAME", help="judge by this one only; may be given again"
)
@click.option(
    "--partial", is_flag=True, help="judge a file whose last line was cut off by what is left of it"
)
@click.option("--json", "as_json", is_flag=True, help="one line of JSON for each path")
def check(paths: tuple[Path, ...], checkers: tuple[str, ...], partial: bool, as_json: bool) -> int:
    """Judge saved runs again.

    PATH is a run folder or a history file. The exit code is the worst of all paths: 1 if any is invalid, else
    255 if judging one failed, else 254 if one could not be read, else 2 if one is unknown, else 0.

    \b
        sunder check runs/latest
        sunder check --json --checker lost_writes runs/cart/*
    """
    from harness.commands import check as command

    split = tuple(name for given in checkers for name in given.split(",") if name)
    return command.check(paths, checkers=split or None, as_json=as_json, partial=partial)


@cli.command()
@click.argument("path", type=FILE, metavar="RUN")
@click.option("--world", metavar="NAME", help="replay in this world instead")
@click.option(
    "--times", type=click.IntRange(1), default=1, show_default=True, metavar="COUNT", help="how many attempts"
)
@click.option("--json", "as_json", is_flag=True, help="the outcome as one line of JSON")
def replay(path: Path, world: str | None, times: int, as_json: bool) -> int:
    """Run a saved run's schedule again.

    Says REPRODUCED (exit 0) when an attempt comes to the same verdict by the same anomaly, else NOT REPRODUCED
    (exit 1; 2 where the world cannot make all of its faults). In the simulator the histories are compared as well,
    byte for byte.

    \b
        sunder replay runs/latest
        sunder replay runs/latest --world docker --times 5
    """
    from harness.commands import replay as command

    return command.replay(path, world=world, times=times, as_json=as_json)


@cli.command()
@click.argument("file", type=FILE, metavar="FILE")
@click.option("--budget", metavar="DURATION", help="start no further cell after this time, such as 6h")
@click.option(
    "--workers", type=click.IntRange(1), metavar="COUNT", help="worker processes  [default: one a processor]"
)
@click.option("--resume", is_flag=True, help="go on with the last night where it stopped")
@click.option(
    "--runs", default=None, metavar="DIRECTORY", help="where the campaign's folder goes  [default: runs]"
)
@click.option("--dry-run", is_flag=True, help="print the cells and run none")
@click.option("--json", "as_json", is_flag=True, help="one line of JSON for each cell")
def campaign(
    file: Path,
    budget: str | None,
    workers: int | None,
    resume: bool,
    runs: str | None,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Run a matrix of configurations and seeds.

    Every outcome goes into campaign.sqlite as soon as it is known, so that a campaign that was stopped goes on
    with --resume. Failing cells keep a run folder. Yesterday's failures come first.

    \b
        sunder campaign nightly.yaml --budget 6h
        sunder campaign nightly.yaml --resume
    """
    from harness.commands import campaign as command

    return command.campaign(
        file, budget=budget, workers=workers, resume=resume, runs=runs, dry_run=dry_run, as_json=as_json
    )


@cli.command()
@click.argument("path", type=FILE, metavar="RUN")
def report(path: Path) -> int:
    """Render the report of a saved run again.

    \b
        sunder report runs/latest
    """
    from harness.commands import report as command

    return command.report(path)


@cli.command()
@click.option("--json", "as_json", is_flag=True, help="one line of JSON for each world and fault family")
def doctor(as_json: bool) -> int:
    """Say which faults work here, and what would help.

    Each world with each fault family: the mechanism, or the remedy where there is none.
    """
    from harness.commands import doctor as command

    return command.doctor(as_json=as_json)


@cli.command()
def reap() -> int:
    """Remove what crashed docker runs left behind.

    Containers and networks of runs whose process is gone, and those that --leave-running kept.
    """
    from harness.commands import docker as command

    return command.reap()


@cli.command()
@click.option("--base", metavar="IMAGE", help="build the node image on this image")
@click.option(
    "--bootstrap", is_flag=True, help="build it from this machine's own Python, where nothing can be pulled"
)
def image(base: str | None, bootstrap: bool) -> int:
    """Build the image that containers run.

    \b
        sunder image
        sunder image --base python:3.12-slim
        sunder image --bootstrap
    """
    from harness.commands import docker as command

    if base is not None and bootstrap:
        raise UsageProblem("--base and --bootstrap exclude each other: give one of them")
    return command.image(base=base, bootstrap=bootstrap)


def call(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code; every mistake ends in one sentence on standard error."""
    try:
        code = cli.main(args=list(arguments), prog_name="sunder", standalone_mode=False)
        return code if isinstance(code, int) else exits.VALID
    except UsageProblem as problem:
        return _complain(str(problem), exits.USAGE)
    except click.exceptions.NoArgsIsHelpError as problem:
        click.echo(problem.format_message())
        return exits.USAGE
    except click.NoSuchOption as problem:
        return _complain(_no_such_option(problem), exits.USAGE)
    except click.UsageError as problem:
        sentence = problem.format_message().rstrip(".")
        where = problem.ctx.command_path if problem.ctx else "sunder"
        return _complain(f"{sentence[:1].lower()}{sentence[1:]}: see `{where} --help`", exits.USAGE)
    except (KeyboardInterrupt, click.Abort):
        return _complain("interrupted", exits.INTERRUPTED)
    except Exception as problem:
        if _expected(problem):
            return _complain(str(problem), exits.HARNESS_ERROR)
        traceback.print_exc()
        return _complain("the harness itself failed; the lines above say where", exits.HARNESS_ERROR)


def _no_such_option(problem: click.NoSuchOption) -> str:
    known = [
        name
        for parameter in (problem.ctx.command.get_params(problem.ctx) if problem.ctx else [])
        for name in (*parameter.opts, *parameter.secondary_opts)
        if name.startswith("--")
    ]
    near = nearest(problem.option_name, known)
    where = problem.ctx.command_path if problem.ctx else "sunder"
    return f"unknown option {problem.option_name!r}: " + (
        f"did you mean {near!r}?" if near else f"see `{where} --help`"
    )


def _expected(problem: Exception) -> bool:
    """Whether the message alone says what to do: trouble with the engine, or a mutant that does not fit the source."""
    from harness.mutants.apply import DoesNotApply

    # Only a process that has loaded the Docker SDK can have trouble with it.
    engine = sys.modules.get("harness.docker.engine")
    return isinstance(problem, DoesNotApply) or (
        engine is not None and isinstance(problem, engine.DockerTrouble)
    )


def _complain(sentence: str, code: int) -> int:
    click.echo(f"sunder: {' '.join(sentence.split())}", err=True)
    return code


def main() -> NoReturn:
    """The command `sunder`."""
    sys.exit(call(sys.argv[1:]))

"""`sunder run`: one test from its settings to its verdict, its report, and the command that repeats it."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from checkers.verdict import Valid, Verdict
from harness import environment as surroundings
from harness import exits, results, screen
from harness import settings as configuration
from harness.mutants import apply
from harness.scenes import SCENES
from harness.scenes.stage import told
from harness.settings import Settings
from harness.standard import COMBINATIONS

if TYPE_CHECKING:
    from harness.runner import Progress
    from history.history import History

WITNESS_MAX = 8


def run(flags: Mapping[str, Any], *, config: Path | None, dry_run: bool, as_json: bool) -> int:
    """Returns the exit code. Raises UsageProblem."""
    if flags.get("scene") in ("help", "list"):
        return show_scenes()
    file = configuration.read_yaml(config) if config is not None else {}
    settings = configuration.resolve(flags, os.environ, file, file_name=str(config))
    if settings.seed is None:
        settings = msgspec.structs.replace(settings, seed=secrets.randbits(32))
    variant = apply.current()
    if settings.mutant is not None and variant is None:
        return run_mutant(settings, [*(["--dry-run"] if dry_run else []), *(["--json"] if as_json else [])])
    if variant is not None:
        settings = msgspec.structs.replace(settings, store_path=variant.directory)
    if dry_run:
        return show_plan(settings)
    return execute(settings, variant, as_json=as_json)


def run_mutant(settings: Settings, words: list[str]) -> int:
    """Runs the settings' mutant in a process of its own: one process never hosts two stores."""
    from harness.mutants.catalog import MUTANTS

    assert settings.mutant is not None
    bare = {k: v for k, v in os.environ.items() if k not in {o.variable for o in configuration.OPTIONS}}
    with apply.copied(MUTANTS[settings.mutant]) as variant:
        command = apply.command("run", *configuration.flags(settings), *words)
        return follow(command, variant.environment(bare))


def follow(command: list[str], environment: Mapping[str, str]) -> int:
    """Runs a process to its end and returns its exit code. An interrupt is passed on once; it heals and we wait for it."""
    # In a process group of its own it does not hear the terminal's Ctrl-C a second time.
    child = subprocess.Popen(command, env=dict(environment), process_group=0)
    before = {
        number: signal.signal(number, lambda number, frame: child.send_signal(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        code = child.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return code if code >= 0 else exits.HARNESS_ERROR


class Interruption:
    """Whether somebody asked to stop: what a world makes of it on its way out (an exception of its own, perhaps) does
    not hide that."""

    def __init__(self) -> None:
        self.heard = False

    def interrupt(self, *_: object) -> None:
        self.heard = True
        raise KeyboardInterrupt


@contextmanager
def interruptible(*, loop_hears: bool = False) -> Generator[Interruption]:
    """SIGTERM interrupts just as Ctrl-C does, so that `timeout` and CI cancellations leave nothing behind.

    With `loop_hears` Ctrl-C is left to Python's own handler, the only one that asyncio takes over for its loop.
    """
    interruption = Interruption()
    # A process started in the background of a script inherits SIGINT ignored; the harness must hear it all the same.
    handlers = {
        signal.SIGINT: signal.default_int_handler if loop_hears else interruption.interrupt,
        signal.SIGTERM: interruption.interrupt,
    }
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def execute(settings: Settings, variant: apply.Variant | None, *, as_json: bool) -> int:
    """Runs one test into a new folder and tells how it ended."""
    from harness import runner

    seed = settings.seed
    assert seed is not None
    runs = Path(settings.runs)
    command = results.command_of(settings, os.environ)
    around = {
        **surroundings.describe(variant),
        "command": command,
        "started": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }
    folder = results.create(runs, settings.title, seed, datetime.now(UTC))
    results.begin(folder, settings, around)
    introduce(settings)
    with interruptible(loop_hears=settings.world != "sim") as interruption:
        try:
            with progress_line() as progress:
                outcome = runner.execute(settings, folder, progress)
        except (KeyboardInterrupt, SystemExit):
            # Worlds with a loop of their own turn SIGTERM into SystemExit once they have cleaned up.
            interruption.heard = True
            outcome = None
        except Exception as problem:
            if not interruption.heard:
                if (folder / results.HISTORY).is_file():
                    return failed(folder, settings, around, command, problem)
                results.discard(runs, folder)
                raise
            outcome = None
    if outcome is None or interruption.heard:
        return interrupted(folder, settings, around, command)
    found = results.finish(folder, settings, outcome, environment=around, command=command)
    draw(folder, outcome.history, found, outcome.logs, command)
    if found.error:
        screen.note(found.error)
    tell(folder, settings, found, outcome.history, command, as_json=as_json)
    return exits.OF[found.verdict]


def introduce(settings: Settings) -> None:
    """Says before anything happens what will run, and what its seed is worth."""
    mutant = f", mutant {settings.mutant}" if settings.mutant else ""
    faults = ", ".join(settings.nemesis) or "no faults"
    spare = f" and {settings.spares} spare" if settings.spares else ""
    screen.note(
        f"{settings.title}: {settings.workload} under {faults}; {settings.nodes} nodes{spare}, N={settings.n} R={settings.r}"
        f" W={settings.w}, {settings.time_seconds:g} s in {settings.world}{mutant}; seed {settings.seed}"
    )
    left_out = left_out_of(settings)
    if left_out:
        screen.note(
            f"NOT MADE in {settings.world}, though the combination {settings.combination} asks for it: {', '.join(left_out)}."
            " What this combination shows with it in the simulator is not shown here."
        )
    if settings.world != "sim":
        screen.note(
            "The seed repeats which operations and faults are asked for; it does not repeat timing, scheduling or"
            " message order in containers."
        )


def left_out_of(settings: Settings) -> list[str]:
    """The fault families of the combination that its world cannot make."""
    if settings.combination is None:
        return []
    asked: tuple[str, ...] = COMBINATIONS[settings.combination].settings["nemesis"]
    possible = configuration.FAMILIES_OF[settings.world]
    if settings.nemesis != tuple(family for family in asked if family in possible):
        return []  # the user chose the faults
    return [family for family in asked if family not in possible]


@contextmanager
def progress_line() -> Generator[Callable[[Progress], None]]:
    """A callback for the runner that shows how it is getting on."""
    with screen.line() as show:
        yield lambda progress: show(lambda: describe(progress))


def describe(p: Progress) -> str:
    """One line, short enough for most terminals: phase, time, operations, and the faults that stand."""
    counts = f"{p.ok + p.fail + p.info} operations: {p.ok} ok {p.fail} fail {p.info} info"
    standing = f"  [{' '.join(p.faults)}]" if p.faults else ""
    end = f" of {p.total_seconds:.0f}" if p.phase == "safety" else ""
    return f"{p.phase:8} {p.seconds:5.1f}{end} s  {counts}{standing}"


def interrupted(folder: Path, settings: Settings, around: Mapping[str, Any], command: str) -> int:
    """Judges and reports what there is after Ctrl-C; the world has healed and stopped on its way out."""
    from harness import runner
    from history import journal
    from history import schedule as schedules

    # It may have struck between the making of a coroutine and its start: nobody is to blame, and nothing to be done.
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    screen.note("interrupted: writing what there is")
    try:
        history = journal.read(folder / results.HISTORY)
        _, _, verdicts = runner.judge(
            history, list(settings.checkers) if settings.checkers is not None else None
        )
    except Exception:
        screen.note(f"{folder} holds what was written until then")
        return exits.INTERRUPTED
    bad = [v for v in verdicts if v.judged and v.valid is Valid.INVALID]
    clean = [v.checker for v in verdicts if v.judged and v.valid is Valid.VALID]
    told = f"nothing wrong until then ({', '.join(clean)})" if clean else "nothing was decided"
    found = results.Results(
        verdict=Valid.INVALID if bad else Valid.UNKNOWN,
        sentence=f"Interrupted after {len(history)} events; "
        f"{f'{bad[0].checker}: {bad[0].reason}' if bad else f'{told}, and what was not run proves nothing.'}",
        seed=settings.seed or 0,
        fingerprints=results.fingerprints(history.header, verdicts),
        results=tuple(verdicts),
    )
    results.put(folder / results.SCHEDULE, schedules.dumps(schedules.Schedule.from_history(history)))
    results.conclude(folder, settings, found, environment={**around, "interrupted": True}, command=command)
    draw(folder, history, found, results.read_logs(folder), command)
    tell(folder, settings, found, history, command, as_json=False, replayable=bool(bad))
    return exits.INTERRUPTED


def draw(
    folder: Path, history: History, found: results.Results, logs: Mapping[str, str], command: str
) -> None:
    """Draws the report. One that cannot be drawn costs nobody their verdict."""
    try:
        results.report(folder, history, found, logs, command=command)
    except Exception:
        traceback.print_exc()
        screen.note(f"the report could not be drawn; `sunder report {folder}` tries again")


def failed(
    folder: Path, settings: Settings, around: Mapping[str, Any], command: str, problem: Exception
) -> int:
    """The harness itself broke during the run: keeps what there is, with the traceback, and accuses nobody."""
    sentence = f"The harness failed: {_first_line(problem)}"
    found = results.Results(
        verdict=Valid.HARNESS_ERROR,
        sentence=sentence,
        seed=settings.seed or 0,
        error="".join(traceback.format_exception(problem)),
    )
    results.conclude(folder, settings, found, environment=around, command=command)
    screen.note(found.error)
    screen.out(screen.headline(found.verdict, sentence))
    screen.out(f"folder   {folder}")
    return exits.HARNESS_ERROR


def _first_line(problem: BaseException) -> str:
    lines = str(problem).splitlines()
    return f"{type(problem).__name__}: {lines[0]}" if lines else type(problem).__name__


def tell(
    folder: Path,
    settings: Settings,
    found: results.Results,
    history: History,
    command: str,
    *,
    as_json: bool,
    replayable: bool = True,
) -> None:
    """How it ended: the verdict in a sentence, the witness, the report's path, and the command that repeats it."""
    if as_json:
        screen.out(
            msgspec.json.encode(
                {
                    "path": str(folder),
                    "verdict": found.verdict,
                    "sentence": found.sentence,
                    "seed": settings.seed,
                    "fingerprints": found.fingerprints,
                    "results": {v.checker: v for v in found.results},
                    "report": str(folder / results.REPORT),
                    "command": command,
                    **({"mutant": settings.mutant} if settings.mutant else {}),
                    **({"addresses": addresses} if (addresses := addresses_of(folder)) else {}),
                }
            ).decode()
        )
        return
    screen.out(screen.headline(found.verdict, found.sentence))
    for text in witness(found.results, history, found.sentence):
        screen.out(f"    {text}")
    if settings.mutant is not None:
        found_it = found.verdict is Valid.INVALID
        told = "is planted" if found_it else "is planted, and this run has not found it"
        screen.out(f"mutant   {settings.mutant} {told}")
    for node, address in addresses_of(folder).items():
        screen.out(f"running  {node}  {address}")
    if (folder / results.REPORT).is_file():
        screen.out(f"report   {folder / results.REPORT}")
    screen.out(f"repeat   {command}")
    if settings.world != "sim" and replayable:
        screen.out(f"replay   sunder replay {folder}")


def addresses_of(folder: Path) -> dict[str, str]:
    """Where the nodes that were left running listen, by the run's environment."""
    environment = folder / results.ENVIRONMENT
    if not environment.is_file():
        return {}
    content: dict[str, Any] = msgspec.json.decode(environment.read_bytes())
    return content.get("addresses") or {}


def witness(verdicts: Sequence[Verdict], history: History, told: str) -> list[str]:
    """The operations that show the first contradiction, one a line, under its sentence unless that was `told` already.

    Nothing if nothing was invalid.
    """
    from checkers import witness as drawing

    for verdict in verdicts:
        if verdict.judged and verdict.valid is Valid.INVALID:
            for anomaly in verdict.anomalies:
                if anomaly.witness:
                    head = [] if anomaly.sentence in told else [f"{verdict.checker}: {anomaly.sentence}"]
                    return [*head, *drawing.lines(anomaly, history)]
    return []


def show_plan(settings: Settings) -> int:
    """Prints the faults that this seed would strike with (of a scene: its story), and runs nothing."""
    from harness import runner

    assert settings.seed is not None
    if settings.scene is not None:
        for at_s, says in told(SCENES[settings.scene], {}):
            screen.out(f"{at_s:8.3f} s  {says}")
        screen.note(f"seed {settings.seed}: nothing was run; the ring says who sits where when a run begins")
        return exits.VALID
    for timed in runner.faults_of(settings, settings.seed):
        content = msgspec.to_builtins(timed.fault)
        tag = content.pop("fault")
        screen.out(f"{timed.at_ns / 1e9:8.3f} s  {tag:14} {_told(content)}".rstrip())
    screen.note(f"seed {settings.seed}: nothing was run")
    return exits.VALID


def _told(content: dict[str, Any]) -> str:
    """A fault's fields as words."""
    words: list[str] = []
    for key, value in content.items():
        match key:
            case "blocked":
                words.append("; ".join(f"{source} to {destination}" for source, destination in value))
            case "offsets_ns":
                words += [f"{node} by {offset / 1e9:+.3f} s" for node, offset in value.items()]
            case "nodes":
                words.append(", ".join(value))
            case _:
                words.append(str(value))
    return "  ".join(words)


def show_scenes() -> int:
    """Prints every scene with its story."""
    for scene in SCENES.values():
        screen.out(screen.paint(scene.name, "bold"))
        screen.out(f"    {scene.sentence}")
        for at_s, says in told(scene, {}):
            screen.out(f"    {at_s:6.1f} s  {says}")
    screen.note("Play one with `sunder run --scene NAME`, in containers with `--world docker`.")
    return exits.VALID


def show_names() -> int:
    """Prints every name that the options take, each with a sentence."""
    for kind in ("combination", "scene", "workload", "nemesis", "checker", "mutant"):
        screen.out(screen.paint(f"{kind}s" if kind != "nemesis" else "nemeses", "bold"))
        for name, sentence in sentences(kind).items():
            screen.out(f"    {name:28} {sentence}".rstrip())
    return exits.VALID


def sentences(kind: str) -> dict[str, str]:
    """Each name of a kind with what it is."""
    match kind:
        case "combination":
            return {c.name: c.sentence for c in COMBINATIONS.values()}
        case "scene":
            return {s.name: s.sentence for s in SCENES.values()}
        case "mutant":
            from harness.mutants.catalog import MUTANTS

            return {m.name: f"{m.sentence} ({m.mirrors})" for m in MUTANTS.values()}
        case "workload":
            from workloads import WORKLOADS

            return {w.name: w.sentence for w in WORKLOADS.values()}
        case "checker":
            from checkers import CHECKERS

            # Each has a module of its own, which opens with what it judges.
            modules = {name: sys.modules[checker.__module__] for name, checker in CHECKERS.items()}
            return {name: (module.__doc__ or "").split("\n")[0] for name, module in modules.items()}
        case "nemesis":
            from nemeses.fault import SENTENCES

            return SENTENCES
        case _:
            return dict.fromkeys(configuration.known_names(kind), "")

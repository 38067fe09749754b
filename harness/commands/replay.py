"""`sunder replay`: the same schedule again, in the same or another world, and whether it showed the same."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from checkers.verdict import Valid
from harness import environment as surroundings
from harness import exits, results, screen
from harness.commands import run
from harness.mutants import apply
from harness.settings import FAMILIES_OF, Settings, UsageProblem, known_names, unknown
from history import schedule as schedules
from history.history import Malformed
from nemeses.fault import FAMILY_OF

if TYPE_CHECKING:
    from harness.runner import Outcome


class Attempts(msgspec.Struct, frozen=True, kw_only=True):
    """How a schedule was replayed and what came of it."""

    times: int
    matched: int = 0
    identical: int = 0
    last: str
    """The last attempt's sentence."""
    left_out: tuple[str, ...] = ()
    """The fault families that the world could not make: what comes of the rest is no reproduction, whatever it is."""

    @property
    def reproduced(self) -> bool:
        return self.matched > 0 and not self.left_out


def replay(path: Path, *, world: str | None, times: int, as_json: bool) -> int:
    """0 if the schedule showed the same at least once, 1 if never, 2 if not all of it could be replayed. Raises UsageProblem."""
    saved = results.read(path)
    settings = saved.settings
    if world is not None:
        if world not in (known := known_names("world")):
            raise unknown("world", world, known)
        settings = msgspec.structs.replace(settings, world=world)
    if saved.results is None or saved.results.verdict is Valid.HARNESS_ERROR:
        raise UsageProblem(
            f"{saved.folder} has no verdict to reproduce: the run did not end; `{_repeat(saved)}` begins anew"
        )
    if saved.environment.get("interrupted") and saved.results.verdict is Valid.UNKNOWN:
        raise UsageProblem(
            f"{saved.folder} was interrupted before anything was decided, so that there is nothing to reproduce;"
            f" `{_repeat(saved)}` begins anew"
        )
    file = saved.folder / results.SCHEDULE
    if not file.is_file():
        raise UsageProblem(f"{saved.folder} has no {results.SCHEDULE}: `{_repeat(saved)}` begins anew")
    variant = apply.current()
    if settings.mutant is not None and variant is None:
        return _in_variant(saved, settings, times, as_json=as_json)
    if variant is not None:
        settings = msgspec.structs.replace(settings, store_path=variant.directory)
    try:
        schedule = schedules.load(file)
    except Malformed as problem:
        raise UsageProblem(str(problem)) from None
    compare_surroundings(saved, variant)
    asked = settings.nemesis
    settings, schedule = possible(settings, schedule)
    left_out = tuple(family for family in asked if family not in settings.nemesis)
    if left_out and not settings.nemesis:
        now = f"Not run: none of its faults can be made in {settings.world}."
        return tell(saved, settings, Attempts(times=0, last=now, left_out=left_out), as_json=as_json)
    done = attempts(saved, settings, schedule, variant, times, left_out)
    return tell(saved, settings, done, as_json=as_json)


def possible(settings: Settings, schedule: schedules.Schedule) -> tuple[Settings, schedules.Schedule]:
    """What of a schedule this world can make; what it cannot is left out, and said."""
    makes = FAMILIES_OF[settings.world]
    if all(family in makes for family in settings.nemesis):
        return settings, schedule
    screen.note(
        f"the {settings.world} world cannot make {', '.join(f for f in settings.nemesis if f not in makes)}:"
        " this is not the same schedule, and shows nothing about that run"
    )
    kept = tuple(f for f in schedule.faults if FAMILY_OF[msgspec.to_builtins(f.fault)["fault"]] in makes)
    return (
        msgspec.structs.replace(settings, nemesis=tuple(f for f in settings.nemesis if f in makes)),
        msgspec.structs.replace(schedule, faults=kept),
    )


def _repeat(saved: results.Saved) -> str:
    return results.command_of(saved.settings)


def _in_variant(saved: results.Saved, settings: Settings, times: int, *, as_json: bool) -> int:
    from harness.mutants.catalog import MUTANTS

    assert settings.mutant is not None
    if settings.mutant not in MUTANTS:
        raise unknown("mutant", settings.mutant, MUTANTS)
    words = [
        str(saved.folder),
        "--world",
        settings.world,
        "--times",
        str(times),
        *(["--json"] if as_json else []),
    ]
    with apply.copied(MUTANTS[settings.mutant]) as variant:
        return run.follow(apply.command("replay", *words), variant.environment(os.environ))


def compare_surroundings(saved: results.Saved, variant: apply.Variant | None) -> None:
    """Says what is no longer as it was when the run was made: then a difference is no surprise."""
    then: Any = saved.environment.get("mutant")
    if variant is not None and then and then.get("digest") != variant.digest:
        screen.note(
            f"mutant {variant.mutant} is another patch now ({variant.digest}) than it was ({then.get('digest')})"
        )
    now = surroundings.revision()
    if saved.environment.get("revision") not in (None, now):
        screen.note(f"the run was made at revision {saved.environment['revision']}, this is {now}")


def attempts(
    saved: results.Saved,
    settings: Settings,
    schedule: schedules.Schedule,
    variant: apply.Variant | None,
    times: int,
    left_out: tuple[str, ...],
) -> Attempts:
    """Replays so many times and compares each outcome."""
    from harness import runner

    original = saved.results
    assert original is not None
    journal = (saved.folder / results.HISTORY).read_bytes()
    same_world = settings.world == saved.settings.world
    matched = identical = 0
    last = ""
    for number in range(1, times + 1):
        folder = keep_folder(settings, variant)
        try:
            with run.interruptible(loop_hears=settings.world != "sim"), run.progress_line() as progress:
                outcome = runner.replay(schedule, settings, folder, progress)
        except BaseException:
            if folder is not None and not (folder / results.HISTORY).exists():
                results.discard(Path(settings.runs), folder)
            raise
        if folder is not None:
            command = f"sunder replay {saved.folder} --world {settings.world}"
            around = surroundings.describe(variant)
            found = results.finish(folder, settings, outcome, environment=around, command=command)
            run.draw(folder, outcome.history, found, outcome.logs, command)
            screen.note(f"attempt {number}: {folder}")
        matched += same(original, outcome)
        identical += same_world and journal_of(outcome, folder) == journal
        last = outcome.sentence
    return Attempts(matched=matched, identical=identical, times=times, last=last, left_out=left_out)


def keep_folder(settings: Settings, variant: apply.Variant | None) -> Path | None:
    """A folder for an attempt that can never be had again; the simulator's can, so they need none."""
    if settings.world == "sim":
        return None
    assert settings.seed is not None
    folder = results.create(Path(settings.runs), f"{settings.title}-replay", settings.seed, datetime.now(UTC))
    results.begin(folder, settings, surroundings.describe(variant))
    return folder


def journal_of(outcome: Outcome, folder: Path | None) -> bytes | None:
    return outcome.journal if folder is None else (folder / results.HISTORY).read_bytes()


def same(original: results.Results, outcome: Outcome) -> bool:
    """Whether a replay came to the same verdict and, where it is invalid, to one of the same anomalies."""
    if outcome.verdict is not original.verdict:
        return False
    wanted = results.signatures(original.results)
    return not wanted or bool(wanted & results.signatures(outcome.verdicts))


def tell(saved: results.Saved, settings: Settings, done: Attempts, *, as_json: bool) -> int:
    """Says whether the run was reproduced, and at what rate; returns the exit code."""
    original = saved.results
    assert original is not None
    exact = settings.world == "sim" and done.identical == done.times
    if as_json:
        screen.out(
            msgspec.json.encode(
                {
                    "path": str(saved.folder),
                    "reproduced": done.reproduced,
                    "matched": done.matched,
                    "times": done.times,
                    "identical": done.identical,
                    "world": settings.world,
                    "verdict": original.verdict,
                    "left_out": done.left_out,
                }
            ).decode()
        )
    elif done.reproduced:
        rate = f"{done.matched} of {done.times}" if done.times > 1 else ""
        how = "byte for byte" if exact else ""
        word = screen.paint("REPRODUCED", "green")
        screen.out("  ".join(part for part in (word, rate, how, original.sentence) if part))
    else:
        rate = f"{done.matched} of {done.times}" if done.times > 1 and not done.left_out else ""
        why = f"{settings.world} cannot make {', '.join(done.left_out)}" if done.left_out else ""
        word = screen.paint("NOT REPRODUCED", "red")
        screen.out("  ".join(part for part in (word, rate, why) if part))
        screen.out(f"    then  {original.sentence}")
        screen.out(f"    now   {done.last}")
    if done.reproduced and settings.world == "sim" == saved.settings.world and not exact:
        screen.note(
            "the verdict is the same, but the history differs: the code is not what it was, or not deterministic"
        )
    if done.left_out:
        return exits.UNKNOWN
    return exits.VALID if done.reproduced else exits.INVALID

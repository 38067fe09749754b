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


def replay(path: Path, *, world: str | None, times: int, as_json: bool) -> int:
    """0 if the schedule showed the same at least once, 1 if never. Raises UsageProblem."""
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
    settings, schedule = possible(settings, schedule)
    return attempts(saved, settings, schedule, variant, times, as_json=as_json)


def possible(settings: Settings, schedule: schedules.Schedule) -> tuple[Settings, schedules.Schedule]:
    """What of a schedule this world can make; what it cannot is left out, and said."""
    makes = FAMILIES_OF[settings.world]
    if all(family in makes for family in settings.nemesis):
        return settings, schedule
    screen.note(
        f"the {settings.world} world cannot make {', '.join(f for f in settings.nemesis if f not in makes)}:"
        " replayed without"
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
    *,
    as_json: bool,
) -> int:
    """Replays so many times, compares each outcome, and tells the rate."""
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
    return tell(saved, settings, matched, identical, times, last, as_json=as_json)


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


def tell(
    saved: results.Saved,
    settings: Settings,
    matched: int,
    identical: int,
    times: int,
    last: str,
    *,
    as_json: bool,
) -> int:
    original = saved.results
    assert original is not None
    exact = settings.world == "sim" and identical == times
    if as_json:
        screen.out(
            msgspec.json.encode(
                {
                    "path": str(saved.folder),
                    "reproduced": matched > 0,
                    "matched": matched,
                    "times": times,
                    "identical": identical,
                    "world": settings.world,
                    "verdict": original.verdict,
                }
            ).decode()
        )
    else:
        word = screen.paint("REPRODUCED", "green") if matched else screen.paint("NOT REPRODUCED", "red")
        rate = f"{matched} of {times}" if times > 1 else ""
        how = "byte for byte" if exact else ""
        screen.out(
            "  ".join(part for part in (word, rate, how, original.sentence if matched else "") if part)
        )
        if not matched:
            screen.out(f"    then  {original.sentence}")
            screen.out(f"    now   {last}")
    if matched and settings.world == "sim" == saved.settings.world and not exact:
        screen.note(
            "the verdict is the same, but the history differs: the code is not what it was, or not deterministic"
        )
    return exits.VALID if matched else exits.INVALID

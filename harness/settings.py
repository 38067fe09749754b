"""What one test is told: one frozen record, and how flags, environment, file and combination make it up."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import msgspec

from nemeses.fault import DESTRUCTIVE, FAMILIES
from nemeses.membership import MEMBERS_MIN

World = Literal["sim", "docker"]
Mode = Literal["siblings", "lww"]
ReadRepair = Literal["blocking", "async", "off"]

SEED_MAX = 2**63 - 1
NEAR = 0.6
"""How alike two names are (difflib's ratio) before one is suggested for the other: a slip of the finger or two."""
FAMILIES_OF: dict[str, tuple[str, ...]] = {
    "sim": FAMILIES,
    "docker": ("partition", "kill", "pause", "membership"),
}
"""Which fault families each world can make at all; `sunder doctor` says which of them work on this machine."""


class UsageProblem(Exception):
    """The user's mistake. The message is one sentence that says what to do about it."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that one test is told. `resolve` makes and checks it; what is left out has its default."""

    workload: str = "cart"
    nemesis: tuple[str, ...] = ("partition", "kill", "pause", "clock")
    world: World = "sim"
    nodes: int = 5
    spares: int = 0
    n: int = 3
    r: int = 2
    w: int = 2
    pr: int = 0
    pw: int = 0
    time_seconds: float = 60.0
    recovery_seconds: float = 30.0
    nemesis_interval_seconds: float = 5.0
    rate: float = 100.0
    concurrency: int = 10
    keys: int = 10
    seed: int | None = None
    mutant: str | None = None
    mode: Mode = "siblings"
    read_repair: ReadRepair = "blocking"
    hinted_handoff: bool = True
    anti_entropy: bool = True
    anti_entropy_interval_seconds: float = 2.0
    anti_entropy_rebuild_seconds: float = 3_600.0
    mixed_hashes: bool = False
    creeping_rot: bool = False
    reap_after_seconds: float = 3600.0
    sloppy: bool = True
    value_bytes: int = 0
    log_segment_bytes: int = 65_536
    unrestricted: bool = False
    checkers: tuple[str, ...] | None = None
    """None: those that the workload names."""
    combination: str | None = None
    scene: str | None = None
    name: str | None = None
    runs: str = "runs"
    leave_running: bool = False
    store_path: str | None = None
    """The directory that holds a patched copy of the package `store`, for worlds that mount it; never written down."""

    @property
    def w_min(self) -> int:
        """The smallest w of any write: the workload of sessions draws its own."""
        return 1 if self.workload == "sessions" else self.w

    @property
    def title(self) -> str:
        """What the run is called in paths and headers."""
        return self.name or self.scene or self.combination or self.workload


def duration_seconds(text: str | float) -> float:
    """Seconds from a number or from text like `500ms`, `60s`, `2m`, `1h30m`.

    >>> [duration_seconds(t) for t in ("500ms", "60s", "1h30m", "2.5", 3)]
    [0.5, 60.0, 5400.0, 2.5, 3.0]
    """
    if isinstance(text, str):
        parts = re.findall(r"(\d+(?:\.\d+)?(?:e-?\d+)?)(ms|s|m|h|d)", text)
        if parts and "".join(a + u for a, u in parts) == text.strip():
            return sum(float(amount) * _UNIT_SECONDS[unit] for amount, unit in parts)
    try:
        seconds = float(text)
    except (TypeError, ValueError):
        seconds = math.nan
    if isinstance(text, bool) or not math.isfinite(seconds):
        raise ValueError("write a duration such as 500ms, 60s, 2m or 1h30m")
    return seconds


_UNIT_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known name that `word` was probably meant to be; None where none is near enough.

    >>> nearest("standart", ["strict", "standard"]), nearest("banana", ["strict", "standard"])
    ('standard', None)
    """
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=NEAR)), None)


def unknown(kind: str, word: object, known: Iterable[str]) -> UsageProblem:
    """The problem of a name that is not known: it names one that is near, and all of them where they are few or none is."""
    names = list(known)
    if not names:
        return UsageProblem(f"unknown {kind} {str(word)!r}: there is none")
    near = nearest(str(word), names)
    every = ", ".join(names)
    if near is None:
        return UsageProblem(f"unknown {kind} {str(word)!r}: choose one of {every}")
    rest = f" (known: {every})" if len(names) <= 12 else ""
    return UsageProblem(f"unknown {kind} {str(word)!r}: did you mean {near!r}?{rest}")


def known_names(kind: str) -> tuple[str, ...]:
    """Every name of a kind: workload, nemesis, world, checker, mutant, combination or scene."""
    match kind:
        case "workload":
            from workloads import WORKLOADS

            return tuple(WORKLOADS)
        case "checker":
            from checkers import CHECKERS

            return tuple(CHECKERS)
        case "mutant":
            from harness.mutants.catalog import MUTANTS

            return tuple(MUTANTS)
        case "combination":
            from harness.standard import COMBINATIONS

            return tuple(COMBINATIONS)
        case "scene":
            from harness.scenes import SCENES

            return tuple(SCENES)
        case "nemesis":
            return FAMILIES
        case "world":
            return tuple(get_args(World))
        case _:
            raise AssertionError(kind)


class Option(msgspec.Struct, frozen=True):
    """One setting as users see it: flag `--name`, key `name` in files, variable `SUNDER_NAME`.

    `read` turns text (or what YAML made of it) into the field's value; its ValueError says what to write instead.
    """

    name: str
    read: Callable[[Any], Any]
    metavar: str
    sentence: str
    field: str = ""
    """The field of Settings, where it is not the option's name."""
    kind: str = ""
    """What the names are called whose registry the value is checked against."""
    off: str = ""
    """For switches: the flag that turns it off."""

    def __post_init__(self) -> None:
        if not self.field:
            msgspec.structs.force_setattr(self, "field", self.key)

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        return f"SUNDER_{self.key.upper()}"


def _duration(value: Any) -> float:
    return duration_seconds(value)


def _integer(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value.strip()):
        return int(value)
    raise ValueError("write a whole number")


def _number(value: Any) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("write a number")
    return number


def _switch(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    words = {
        "true": True,
        "yes": True,
        "on": True,
        "1": True,
        "false": False,
        "no": False,
        "off": False,
        "0": False,
    }
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise ValueError("write true or false")


def _text(value: Any) -> str:
    if isinstance(value, str) and value:
        return value
    raise ValueError("write a name")


def _names(value: Any) -> tuple[str, ...]:
    """Names from `a,b` or a list; `none` is no name at all."""
    if isinstance(value, str):
        names = tuple(part.strip() for part in value.split(","))
    elif isinstance(value, list | tuple):
        names = tuple(str(part) for part in cast("list[object]", value))
    else:
        raise ValueError("write names with commas between them, or none")
    if names in (("none",), ()):
        return ()
    if not all(names):
        raise ValueError("write names with commas between them, or none")
    return tuple(dict.fromkeys(names))


def _one_of(literal: object) -> Callable[[Any], str]:
    known = cast("tuple[str, ...]", get_args(literal))

    def read(value: Any) -> str:
        # YAML reads a bare `off` as False.
        text = "off" if value is False and "off" in known else value
        if text in known:
            return cast(str, text)
        near = nearest(str(value), known)
        raise ValueError(
            f"did you mean {near!r}? (known: {', '.join(known)})"
            if near
            else f"choose one of {', '.join(known)}"
        )

    return read


OPTIONS: tuple[Option, ...] = (
    Option("combination", _text, "NAME", "begin from a standard combination", kind="combination"),
    Option(
        "scene", _text, "NAME", "play this scene (docs/scenes.md); `help` tells of all of them", kind="scene"
    ),
    Option("workload", _text, "NAME", "what clients ask", kind="workload"),
    Option("nemesis", _names, "NAMES", "fault families with commas between them, or none", kind="nemesis"),
    Option("world", _text, "NAME", "sim (the simulator) or docker (containers)", kind="world"),
    Option("nodes", _integer, "COUNT", "how many nodes the store has"),
    Option("spares", _integer, "COUNT", "nodes that run beside the store's, and may join it"),
    Option("n", _integer, "COUNT", "replicas of every key"),
    Option("r", _integer, "COUNT", "answers that a read waits for"),
    Option("w", _integer, "COUNT", "answers that a write waits for"),
    Option("pr", _integer, "COUNT", "home replicas that must be among the answers to a read"),
    Option("pw", _integer, "COUNT", "home replicas that must be among the answers to a write"),
    Option("time", _duration, "DURATION", "how long clients ask and faults strike", field="time_seconds"),
    Option(
        "recovery-time",
        _duration,
        "DURATION",
        "how long to wait at most after the heal, before the final reads",
        field="recovery_seconds",
    ),
    Option(
        "nemesis-interval",
        _duration,
        "DURATION",
        "mean time between bursts of faults",
        field="nemesis_interval_seconds",
    ),
    Option("rate", _number, "NUMBER", "operations per second, all clients together"),
    Option("concurrency", _integer, "COUNT", "how many clients"),
    Option("keys", _integer, "COUNT", "how many keys the workload uses"),
    Option(
        "seed", _integer, "INTEGER", "decides everything in the simulator; drawn and printed if not given"
    ),
    Option("mutant", _text, "NAME", "plant this bug in a copy of the store first", kind="mutant"),
    Option("mode", _one_of(Mode), "NAME", "siblings, or lww (the newest timestamp wins)"),
    Option("read-repair", _one_of(ReadRepair), "NAME", "blocking, async or off"),
    Option(
        "hinted-handoff",
        _switch,
        "",
        "fallbacks keep hints and deliver them, or not",
        off="no-hinted-handoff",
    ),
    Option(
        "anti-entropy",
        _switch,
        "",
        "home replicas compare what they hold and repair it, or not",
        off="no-anti-entropy",
    ),
    Option(
        "anti-entropy-interval",
        _duration,
        "DURATION",
        "how often they compare",
        field="anti_entropy_interval_seconds",
    ),
    Option(
        "anti-entropy-rebuild",
        _duration,
        "DURATION",
        "how often a node reads its disk back, to find and mend what has rotted there",
        field="anti_entropy_rebuild_seconds",
    ),
    Option(
        "creeping-rot",
        _switch,
        "",
        "the disks of all nodes rot in turn, an interval apart, and at last all restart; with --nemesis rot,kill",
    ),
    Option(
        "mixed-hashes",
        _switch,
        "",
        "every second node hashes its trees in the next version, as in the midst of an upgrade",
    ),
    Option(
        "reap-after",
        _duration,
        "DURATION",
        "how old tombstones become until their keys are forgotten",
        field="reap_after_seconds",
    ),
    Option("sloppy", _switch, "", "quorums may use fallbacks, or home replicas only", off="strict"),
    Option("value-bytes", _integer, "COUNT", "pad every value that is written to so many bytes"),
    Option(
        "log-segment-bytes",
        _integer,
        "COUNT",
        "how large a file of a node's log may grow; small ones are merged soon",
    ),
    Option(
        "unrestricted",
        _switch,
        "",
        "let destructive faults hit any node: then losses are counted, not judged",
    ),
    Option("checkers", _names, "NAMES", "judge by these only, commas between them", kind="checker"),
    Option("name", _text, "NAME", "what to call the run"),
    Option("runs", _text, "DIRECTORY", "where run folders go"),
    Option("leave-running", _switch, "", "docker: keep the nodes up afterwards (`sunder reap` removes them)"),
)

BY_KEY: dict[str, Option] = {o.key: o for o in OPTIONS}
BY_FIELD: dict[str, Option] = {o.field: o for o in OPTIONS}

OTHER_VARIABLES = frozenset({"SUNDER_VARIANT", "SUNDER_NO_DOCKER", "SUNDER_REQUIRE_DOCKER"})
"""Variables that begin with SUNDER_ and are no settings."""


def option_of(key: str, source: str = "") -> Option:
    """The option that a file's key (or a field's name) means. Raises UsageProblem naming the source."""
    plain = key.replace("-", "_")
    found = BY_KEY.get(plain) or BY_FIELD.get(plain)
    if found is None:
        raise unknown(f"key in {source}" if source else "key", key, BY_KEY)
    return found


def fields_of(written: Mapping[str, Any], *, source: str) -> dict[str, Any]:
    """Fields from keys and values as users (or combinations) write them. Raises UsageProblem naming the source."""
    fields: dict[str, Any] = {}
    for key, value in written.items():
        option = option_of(key, source)
        if value is None:
            continue
        try:
            fields[option.field] = option.read(value)
        except ValueError as problem:
            place = f"{source}: " if source else ""
            raise UsageProblem(f"{place}{option.name} cannot be {value!r}: {problem}") from None
    return fields


def variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The settings among environment variables. Raises UsageProblem for a SUNDER_ variable that is none."""
    known = {o.variable: o.key for o in OPTIONS}
    found: dict[str, str] = {}
    for variable, value in environment.items():
        if variable in known:
            found[known[variable]] = value
        elif variable.startswith("SUNDER_") and variable not in OTHER_VARIABLES:
            raise unknown("variable", variable, known)
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    """One mapping from a YAML (or JSON) file, read safely. Raises UsageProblem."""
    import yaml

    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as problem:
        raise UsageProblem(f"cannot read {path}: {problem.strerror or problem}") from None
    except UnicodeDecodeError:
        raise UsageProblem(f"{path} is not text: give a YAML file") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        reason = getattr(problem, "problem", None) or str(problem).splitlines()[0]
        raise UsageProblem(f"{path} is not valid YAML{line}: {reason}") from None
    except RecursionError:
        raise UsageProblem(f"{path} is nested too deeply for a settings file") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageProblem(f"{path} must hold keys and values, such as `workload: cart`")
    mapping = cast("dict[object, Any]", content)
    for key in mapping:
        if not isinstance(key, str):
            # YAML 1.1 reads a bare `n` as itself, but `no`, `on` and numbers as something else.
            raise UsageProblem(f"{path}: the key {key!r} is not text: put it in quotes")
    return cast("dict[str, Any]", content)


def resolve(
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    file: Mapping[str, Any] | None = None,
    *,
    file_name: str = "the file",
) -> Settings:
    """Flags beat environment beats file beats combination beats defaults. A mutant of which nothing else is said runs
    in the combination that shows it. Raises UsageProblem."""
    own = {
        **fields_of(file or {}, source=file_name),
        **fields_of(variables(environment or {}), source="the environment"),
        **fields_of(flags or {}, source=""),
    }
    if own.get("mutant") is not None and not {"combination", "workload", "nemesis", "scene"} & own.keys():
        own["combination"] = exposing(own["mutant"])
    settings = Settings(**{**base(own.get("combination"), own.get("world"), own.get("scene")), **own})
    validate(settings)
    return settings


def exposing(mutant: str) -> str:
    """The combination that shows a mutant: what a run of it takes where nothing else was said. Raises UsageProblem."""
    from harness.mutants.catalog import MUTANTS

    if mutant not in MUTANTS:
        raise unknown("mutant", mutant, MUTANTS)
    return MUTANTS[mutant].combination


def base(combination: str | None, world: str | None, scene: str | None = None) -> dict[str, Any]:
    """What is the case before anything is said: the scene's settings or the combination's, else every family that the
    world makes."""
    fields: dict[str, Any] = {}
    if scene is not None:
        from harness.scenes import SCENES

        if scene not in SCENES:
            raise unknown("scene", scene, SCENES)
        fields = SCENES[scene].settings_in(world or "sim")
    if combination is not None:
        from harness.standard import COMBINATIONS

        if combination not in COMBINATIONS:
            raise unknown("combination", combination, COMBINATIONS)
        fields = fields_of(COMBINATIONS[combination].settings, source=f"combination {combination}")
    possible = FAMILIES_OF.get(world or fields.get("world", "sim"), FAMILIES)
    asked = fields.get("nemesis", Settings().nemesis)
    # A combination or default written for the simulator keeps in another world what that world can make.
    return {**fields, "nemesis": tuple(f for f in asked if f in possible)}


def validate(s: Settings) -> None:
    """Raises UsageProblem with the first thing that cannot be."""
    for kind, names in (
        ("workload", (s.workload,)),
        ("nemesis", s.nemesis),
        ("world", (s.world,)),
        ("checker", s.checkers or ()),
        ("mutant", (s.mutant,) if s.mutant is not None else ()),
        ("scene", (s.scene,) if s.scene is not None else ()),
    ):
        for name in names:
            if name not in (known := known_names(kind)):
                raise unknown(kind, name, known)
    for wrong, problem in _contradictions(s):
        if wrong:
            raise UsageProblem(problem)


def _contradictions(s: Settings) -> tuple[tuple[bool, str], ...]:
    cannot = [f for f in s.nemesis if f not in FAMILIES_OF[s.world]]
    can = ",".join(FAMILIES_OF[s.world])
    destructive = [f for f in s.nemesis if f in DESTRUCTIVE]
    more_copies = "choose another workload than sessions" if s.workload == "sessions" else "raise w"
    fixed = _fixed_by_scene(s)
    return (
        (
            s.scene is not None and s.combination is not None,
            f"the scene {s.scene} and the combination {s.combination} exclude each other: leave one of them out",
        ),
        (
            bool(fixed),
            f"the scene {s.scene} has its own {', '.join(fixed)}: leave that out, or leave the scene out",
        ),
        (s.nodes < 1, f"nodes={s.nodes} leaves nothing to test: ask for at least one node"),
        (s.n < 1, f"n={s.n} keeps no replica: choose n of at least 1"),
        (
            s.n > s.nodes,
            f"n={s.n} replicas need at least {s.n} nodes, there are {s.nodes}: lower n or raise nodes",
        ),
        (s.r < 1, f"r={s.r} would read nothing: choose r between 1 and n={s.n}"),
        (s.w < 1, f"w={s.w} would write nothing: choose w between 1 and n={s.n}"),
        (s.r > s.n, f"r={s.r} answers cannot come from n={s.n} replicas: choose r between 1 and {s.n}"),
        (s.w > s.n, f"w={s.w} answers cannot come from n={s.n} replicas: choose w between 1 and {s.n}"),
        (not 0 <= s.pr <= s.n, f"pr={s.pr} home replicas cannot be had: choose pr between 0 and n={s.n}"),
        (not 0 <= s.pw <= s.n, f"pw={s.pw} home replicas cannot be had: choose pw between 0 and n={s.n}"),
        (s.time_seconds <= 0, f"time={s.time_seconds:g}s is no test: choose a longer time"),
        (s.recovery_seconds < 0, f"recovery-time={s.recovery_seconds:g}s is negative: choose 0s or more"),
        (
            s.nemesis_interval_seconds <= 0,
            f"nemesis-interval={s.nemesis_interval_seconds:g}s has no end of faults: choose more than 0s",
        ),
        (
            s.creeping_rot and set(s.nemesis) != {"rot", "kill"},
            "creeping-rot is rot of all disks and a restart of all nodes: use it with --nemesis rot,kill",
        ),
        (
            s.anti_entropy_interval_seconds < 0.001,
            f"anti-entropy-interval={s.anti_entropy_interval_seconds:g}s would never rest: choose 1ms or more",
        ),
        (
            s.reap_after_seconds < 0.1,
            f"reap-after={s.reap_after_seconds:g}s leaves nothing but work: choose 100ms or more",
        ),
        (
            s.anti_entropy_rebuild_seconds < 0.001,
            f"anti-entropy-rebuild={s.anti_entropy_rebuild_seconds:g}s would never rest: choose 1ms or more",
        ),
        (s.rate <= 0, f"rate={s.rate:g} asks nothing: choose more than 0 operations per second"),
        (s.concurrency < 1, f"concurrency={s.concurrency} leaves no client: choose at least 1"),
        (s.spares < 0, f"spares={s.spares} is no number of nodes: choose 0 or more"),
        (
            "membership" in s.nemesis and not s.spares and s.nodes <= MEMBERS_MIN,
            f"membership needs somebody who can join or leave: choose spares=1 or more than {MEMBERS_MIN} nodes",
        ),
        (
            not 0 <= s.value_bytes <= 1 << 20,
            f"value-bytes={s.value_bytes} is no size of a value: choose 0 to {1 << 20}",
        ),
        (
            s.log_segment_bytes < 512,
            f"log-segment-bytes={s.log_segment_bytes} holds no record: choose at least 512",
        ),
        (
            bool({"rollback", "rot"} & set(s.nemesis))
            and s.reap_after_seconds < s.time_seconds
            and not s.unrestricted,
            "a rollback to before a reap (or rot, which may cut off the end of a log) brings back what everybody had"
            " agreed to forget, which no store can tell from news: raise reap-after above time, or say --unrestricted"
            " and have losses counted",
        ),
        (
            s.w_min < 2 and bool(destructive) and not s.unrestricted,
            f"{', '.join(destructive)} may destroy the only copy of a write where w=1 is enough: {more_copies},"
            " or say --unrestricted and have losses counted",
        ),
        (s.keys < 1, f"keys={s.keys} leaves nothing to read or write: choose at least 1"),
        (
            s.seed is not None and not 0 <= s.seed <= SEED_MAX,
            f"seed={s.seed} is out of range: choose 0 to {SEED_MAX}",
        ),
        (
            bool(cannot),
            f"the {s.world} world cannot make {', '.join(cannot)}: use --nemesis {can}, or --world sim",
        ),
        (
            not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", s.title) or s.title == "latest",
            f"name={s.title!r} cannot name a folder: use letters, digits, dots, dashes, at most 100, and not `latest`",
        ),
        (
            s.leave_running and s.world == "sim",
            "leave-running needs nodes that can run on: add --world docker",
        ),
    )


OPEN_IN_SCENES = frozenset(
    (
        "scene",
        "world",
        "seed",
        "mutant",
        "mode",
        "read_repair",
        "hinted_handoff",
        "sloppy",
        "recovery_seconds",
        "checkers",
        "name",
        "runs",
        "leave_running",
    )
)
"""What may be said beside a scene: its story needs the rest as it is."""


def _fixed_by_scene(s: Settings) -> list[str]:
    """The settings that a scene has of its own, and that somebody said otherwise."""
    if s.scene is None:
        return []
    from harness.scenes import SCENES

    plain = Settings(**base(None, s.world, s.scene))
    free = OPEN_IN_SCENES | ({"time_seconds"} if SCENES[s.scene].elastic else set[str]())
    return [o.name for o in OPTIONS if o.field not in free and getattr(s, o.field) != getattr(plain, o.field)]


def written(s: Settings, *, only: Iterable[str] | None = None) -> dict[str, Any]:
    """The settings as a file would hold them (keys of OPTIONS, plain JSON values); `resolve(file=...)` reads it back."""
    fields = set(BY_FIELD if only is None else only)
    return {
        option.key: _plain(getattr(s, option.field), option)
        for option in OPTIONS
        if option.field in fields and getattr(s, option.field) is not None
    }


def _plain(value: Any, option: Option) -> Any:
    if option.read is _duration:
        return f"{_shortest(value)}s"
    if option.read is _names:
        return list(cast("tuple[str, ...]", value)) or "none"
    if option.read is _number:
        return int(value) if float(value).is_integer() else value
    return value


def _shortest(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def flags(s: Settings, *, also: Iterable[str] = ()) -> list[str]:
    """The shortest flags that make these settings again, seed included. Fields in `also` are spelt out in any case:
    an environment variable would say otherwise."""
    spelt = set(also)
    if s.mutant is not None and s.combination is None and s.scene is None:
        # Said in so many words, or the mutant would begin from the combination that shows it.
        spelt.add("workload")
    fields: dict[str, Any] = {**base(s.combination, s.world, s.scene), "combination": s.combination}
    plain = Settings(**fields)
    words: list[str] = []
    for option in OPTIONS:
        value = getattr(s, option.field)
        if option.field == "combination":
            differs = value is not None
        else:
            differs = value is not None and (value != getattr(plain, option.field) or option.field in spelt)
        if not differs:
            continue
        if option.read is _switch:
            if value or option.off:
                words.append(f"--{option.name}" if value else f"--{option.off}")
        else:
            shown = _plain(value, option)
            words += [
                f"--{option.name}",
                ",".join(cast("list[str]", shown)) if isinstance(shown, list) else str(shown),
            ]
    return words

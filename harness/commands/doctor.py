"""`sunder doctor`: a table of what works here, and what would help."""

from __future__ import annotations

import msgspec

from harness import doctor as doctors
from harness import exits, screen


def doctor(*, as_json: bool) -> int:
    """Always 0: a fault that cannot be made here is a finding, not a failure."""
    found = doctors.examine()
    if as_json:
        for finding in found.findings:
            screen.out(msgspec.json.encode({**msgspec.to_builtins(finding), "works": finding.works}).decode())
        return exits.VALID
    said: dict[str, str] = {ground.found: f"see {ground.what} below" for ground in found.grounds}
    for finding in found.findings:
        word = screen.paint("works", "green") if finding.works else screen.paint("no   ", "red")
        remedy = said.get(finding.remedy, finding.remedy)
        screen.out(f"{finding.world:7} {finding.family:10} {word}  {finding.mechanism or remedy}")
    for ground in found.grounds:
        screen.out(f"{ground.world:7} {ground.what:10}        {ground.found}")
    return exits.VALID

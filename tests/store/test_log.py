"""What recovery makes of a log: torn tails cut, damage skipped, acknowledged records kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from store.log import frame, recover


def mark(offset: int) -> bytes:
    return frame(b"M" + offset.to_bytes(8, "big"))


def batches(*groups: list[bytes]) -> tuple[bytes, list[int]]:
    """A log of these batches, and where each ends."""
    content = b""
    ends: list[int] = []
    for group in groups:
        content += mark(len(content)) + b"".join(frame(p) for p in group)
        ends.append(len(content))
    return content, ends


@given(st.integers(0, 200), st.data())
def test_a_tail_torn_at_any_byte_loses_only_what_was_never_acknowledged(
    seed: int, data: st.DataObject
) -> None:
    content, ends = batches([b"Pone", b"Ptwo"], [b"Pthree"], [b"Pfour" * 20, b"Pfive"])
    cut = data.draw(st.integers(ends[1], len(content)))
    found, size = recover(content[:cut])
    assert found.payloads[:3] == [b"Pone", b"Ptwo", b"Pthree"]
    assert found.bad_records == 0
    assert size <= cut and recover(content[:size])[0].bytes_cut == 0


def test_damage_before_the_last_mark_is_skipped_and_what_follows_is_kept() -> None:
    content, ends = batches([b"Pone", b"Ptwo"], [b"Pthree"])
    broken = bytearray(content)
    broken[content.index(b"Pone") + 1] ^= 1
    found, size = recover(bytes(broken))
    assert found.payloads == [b"Ptwo", b"Pthree"]
    assert (found.bad_records, found.bytes_cut, size) == (1, 0, len(content))
    assert ends[-1] == size


def test_a_hole_of_zeros_in_the_last_batch_cuts_from_the_hole() -> None:
    content, ends = batches([b"Pone"], [b"Ptwo", b"Pthree"])
    start = content.index(b"Ptwo") - 4
    holed = content[:start] + bytes(8) + content[start + 8 :]
    found, _ = recover(holed)
    assert found.payloads == [b"Pone"]
    assert found.bytes_cut > 0
    assert ends[0] <= len(content) - found.bytes_cut


def test_a_payload_that_contains_a_frame_is_not_taken_apart() -> None:
    inner = frame(b"Pinner")
    content, _ = batches([b"P" + inner, b"Pafter"])
    assert recover(content)[0].payloads == [b"P" + inner, b"Pafter"]


def test_an_empty_log_holds_nothing() -> None:
    found, size = recover(b"")
    assert (found.payloads, size) == ([], 0)

"""Files as nobody should write them: any JSON at any place of a document, and bytes cut, flipped or made up."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from jaxpaint.base.errors import UserError

ODD = st.sampled_from(
    [None, True, 0, -1, 3, 10**7, 10**12, 10**400, 1.5, 1e300, "", "3", "\ud800", "../x", "a\nb", [], [1], [[]], {}]
)
JSON = st.recursive(
    ODD | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
TEXTS = st.sampled_from(["NaN", "Infinity", "1e999", "[" * 100_000, "[" * 400 + "]" * 400, "9" * 5000, "null", "[]"])


def places(document: Any) -> list[tuple[Any, ...]]:
    """The way to every value of a document, the whole among them."""
    inner = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    return [(), *((key, *rest) for key, value in inner for rest in places(value))]


@st.composite
def documents(draw: Callable[[Any], Any], document: Any) -> bytes:
    """A JSON document like this one with other values at one or two places, or none there; or nothing like it."""
    if draw(st.integers(0, 5)) == 0:
        return draw(TEXTS.map(str.encode) | st.binary(max_size=40))
    changed, keys = copy.deepcopy(document), places(document)
    for *way, last in draw(st.lists(st.sampled_from([place for place in keys if place]), min_size=1, max_size=2)):
        try:
            holder = changed
            for key in way:
                holder = holder[key]
            if draw(st.booleans()) or not isinstance(holder, dict):
                holder[last] = draw(JSON)
            else:
                holder.pop(last)
        except (KeyError, IndexError, TypeError):  # the first change took the second's place away
            continue
    text = json.dumps(changed)
    return text.replace('"a\\nb"', draw(TEXTS), 1).encode()


@dataclass(frozen=True)
class Damage:
    """Bytes cut, or made up, or with some flipped. Small, so that an example can be printed."""

    made_up: bytes | None = None
    size: int | None = None
    flipped: tuple[tuple[int, int], ...] = ()

    def of(self, data: bytes) -> bytes:
        """What becomes of `data`."""
        if self.made_up is not None:
            return self.made_up
        changed = bytearray(data[: self.size])
        for place, bits in self.flipped:
            changed[place] ^= bits
        return bytes(changed)


def damage(size: int, head: int | None = None) -> st.SearchStrategy[Damage]:
    """To `size` bytes, of which flipped are those among the first `head`."""
    places = st.tuples(st.integers(0, min(head or size, size) - 1), st.integers(1, 255))
    return (
        st.binary(max_size=64).map(Damage)
        | st.integers(0, size - 1).map(lambda cut: Damage(size=cut))
        | st.lists(places, min_size=1, max_size=4).map(lambda flipped: Damage(flipped=tuple(flipped)))
    )


def refused(call: Callable[[], Any]) -> bool:
    """Whether a call names a mistake, which is one line; any other error is the test's."""
    said = None
    try:
        call()
    except UserError as error:
        said = str(error)
    assert said is None or len(said.splitlines()) == 1, said
    return said is not None


def as_first_stores(store: Path) -> None:
    """A store without the hashes that the first version did not write."""
    manifest = json.loads((store / "manifest.json").read_text())
    kept = {name: value for name, value in manifest.items() if name not in ("files", "sha256")}
    (store / "manifest.json").write_text(json.dumps(kept))

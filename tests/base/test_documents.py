"""Documents from outside: whatever stands in them, they are read or refused in one line."""

import json
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from jaxpaint.base.documents import checked, parse_json, read_json, shown
from jaxpaint.base.errors import UserError


class Pair(BaseModel):
    model_config = ConfigDict(strict=True)
    name: str
    sizes: list[int]


def outcome(call):
    """What a call gives, or the mistake it names."""
    try:
        return call()
    except UserError as error:
        return error


def test_a_document_is_its_value(tmp_path):
    (tmp_path / "a.json").write_text('{"name": "é", "sizes": [1, 2]}', encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"name": "é", "sizes": [1, 2]}
    assert read_json(tmp_path / "a.json", Pair) == Pair(name="é", sizes=[1, 2])


@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_refused_in_one_line(text):
    found = outcome(lambda: parse_json(text, "it"))
    assert found == json.loads(text) if not isinstance(found, UserError) else re.fullmatch("it .+", str(found))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@given(JSON)
def test_any_value_is_a_shape_or_refused_in_one_line(value):
    found = outcome(lambda: checked(value, Pair, "it"))
    if isinstance(found, UserError):
        assert re.fullmatch("it is not as it should be: .+", str(found))
    else:
        assert found.model_dump().items() <= value.items()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "NaN", "-Infinity", "[1e999]", "9" * 5000, "[" * 150 + "]" * 150]
)
def test_what_is_no_document(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=r"a\.json"):
        read_json(tmp_path / "a.json")


def test_a_wrong_place_is_named_with_what_stands_there():
    with pytest.raises(UserError, match=r": sizes\.1: input should be a valid integer, not 'x'$"):
        checked({"name": "a", "sizes": [1, "x"]}, Pair, "it")


def test_what_is_read_can_be_written_again():
    value = parse_json("[" * 100 + "]" * 100, "it")
    assert json.loads(json.dumps(value, indent=2)) == value


@pytest.mark.parametrize("value", [10**5000, "x" * 1000, "\n\x1b[2J", list(range(1000)), float("nan")], ids=type)
def test_any_value_is_shown_on_a_short_line(value):
    assert shown(value).isprintable()
    assert len(shown(value)) <= 61
    with pytest.raises(UserError) as caught:
        checked({"name": value, "sizes": [value], "\n\x07": 1}, dict[str, dict[str, int]], "it")
    assert str(caught.value).isprintable()


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="not a regular file"):
        read_json(tmp_path / "pipe")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        read_json(tmp_path / "gone")

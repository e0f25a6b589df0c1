"""Text from outside on a terminal, in CSV and in Markdown."""

from __future__ import annotations

import csv
import io
import re
import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from jaxpaint.base.shown import csv_cell, markdown_cell, visible, visible_name

TEXTS = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\x07\r\n\t\x9b\u202e\udcff=+-@|<>[]&`\\")))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),  # an escape sequence's beginning in one character
        ("over\rwritten", r"over\rwritten"),
        ("back\b\x7f", r"back\x08\x7f"),
        ("abc\u202etxt.exe", r"abc\u202etxt.exe"),
        ("a\udcffb", r"a\xffb"),
        ("lone \ud83d", r"lone \ud83d"),
        ("été, 漢字, שלום, 👍🏽 and \\x1b", "été, 漢字, שלום, 👍🏽 and \\x1b"),
        ("two\n\tlines", "two\n\tlines"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown) -> None:
    assert visible(text) == shown


def test_a_name_is_one_line() -> None:
    assert visible_name("a\nb\tc\x1b") == r"a\nb\tc\x1b"


@given(TEXTS)
def test_nothing_is_left_to_obey(text) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert visible(shown) == shown
    assert visible_name(text).splitlines() in ([visible_name(text)], [])
    shown.encode()


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "=cmd|' /C calc'!A0", "＝1+1"])
def test_a_formula_is_a_text(text) -> None:
    assert csv_cell(text) == f"'{text}"


@pytest.mark.parametrize("value", ["-1", "+1.5e3", "-inf", -1, -0.5, None, "0-3 {4 5}*3", "a=b", ""])
def test_numbers_and_other_texts_stay(value) -> None:
    assert csv_cell(value) == value


@given(TEXTS)
@example("\r")
def test_csv_is_read_back_but_for_the_mark(text) -> None:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerow([csv_cell(text), "next"])
    ((read, after),) = csv.reader(io.StringIO(out.getvalue(), newline=""))
    assert read.removeprefix("'") == visible(text).removeprefix("'")
    assert after == "next"
    assert not read.startswith(("=", "@"))


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("a|b", r"a\|b"),
        (r"a\|b", r"a\\\|b"),
        ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
        ("[click](javascript:x)", r"\[click\](javascript:x)"),
        ("![i](http://e/x.png)", r"!\[i\](http:\//e/x.png)"),
        ("see www.evil.example", r"see www\.evil.example"),
        ("&lt;b&gt;", r"\&lt;b\&gt;"),
        ("two\nrows", r"two\\nrows"),
        ("0-8 {9-22}*3 23-31", "0-8 {9-22}*3 23-31"),
        ("lambada_openai", "lambada_openai"),
        ("-0.25", "-0.25"),
    ],
)
def test_a_cell_of_markdown_shows_what_it_holds(text, cell) -> None:
    assert markdown_cell(text) == cell


@given(TEXTS)
def test_no_markup_is_left_in_a_cell_of_markdown(text) -> None:
    bare = re.sub(r"\\[!-/:-@\[-`{-~]", "", markdown_cell(text))
    assert not set(bare) & set("|<>[]&`\n")
    assert "://" not in bare

"""Text files of every system's editors."""

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.base.texts import read_text
from jaxpaint.cli import main
from jaxpaint.studies.settings import read_plans


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_byte_order_mark_and_every_end_of_line(tmp_path, mark, end):
    file = tmp_path / "plans.txt"
    file.write_bytes(f"{mark}0–2 4{end}{end}# twice, ü{end}0-3*2{end}".encode())
    assert read_text(file) == "0–2 4\n\n# twice, ü\n0-3*2\n"
    assert read_plans(file) == ("0-2 4", "(0-3)*2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0-2 4\n".encode("utf-16"), "it is not UTF-8 text, but UTF-16, UTF-32 or no text; save it as UTF-8"),
        ("0-2 4\n".encode("utf-16-le"), "it is not UTF-8 text, but UTF-16, UTF-32 or no text"),
        ("0-2 4\n".encode("utf-16-be"), "it is not UTF-8 text, but UTF-16, UTF-32 or no text"),
        ("0-2 4\n".encode("utf-32"), "it is not UTF-8 text, but UTF-16, UTF-32 or no text"),
        (b"0-2 4\n# caf\xe9\n", r"it is not UTF-8 text \(line 2\); save it as UTF-8"),
    ],
)
def test_other_encodings_are_told(tmp_path, content, message, capsys):
    file = tmp_path / "plans.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"cannot read {file}: {message}"):
        read_text(file)
    for option in ("--text-file", "--plans-file"):
        assert main(["masked", "--model", "none", option, str(file)]) == 2
        assert f"cannot read {file}: it is" in capsys.readouterr().err

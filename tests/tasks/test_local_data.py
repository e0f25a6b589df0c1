"""The --data option: files in place of a task's dataset."""

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.tasks.local_data import parse_data_option


def test_the_data_option(tmp_path):
    file = tmp_path / "a=b.jsonl"
    file.write_text('{"text": "one two"}\n')
    assert parse_data_option([f"t={file}", f"t:train={file}"]) == {"t": {None: file, "train": file}}
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "table.txt").write_text("a\n1\n")
    for text, complaint in [
        ("t", "expected TASK=FILE"),
        ("=f", "expected TASK=FILE"),
        ("t:=f", "expected TASK"),
        ("t=", "expected TASK=FILE"),
        (f"t={tmp_path}/no.jsonl", "there is no file"),
        (f"t={tmp_path}/table.txt", r"unknown kind of file '.txt'; expected .jsonl"),
        (f"t={tmp_path}/empty.jsonl", "is empty"),
        (f"t={tmp_path}", "is a folder"),
    ]:
        with pytest.raises(UserError, match=complaint):
            parse_data_option([text])
    with pytest.raises(UserError, match="gives 't:train' twice"):
        parse_data_option([f"t:train={file}", f"t:train={file}"])

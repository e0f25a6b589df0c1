"""Files of data in every form that people have them: the same documents, whatever they are written as."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import datasets
import numpy as np
import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.studies.glue import GlueSpec
from jaxpaint.tasks.glue import TASKS, glue_task, load_examples
from jaxpaint.tasks.load import build_instances, load_tasks
from jaxpaint.tasks.local_data import parse_data_option

# Texts that a reader of CSV may take for something else.
TRICKY = ("NA", "null", "true", "007", '"quoted", with\na line', "nan", "1.50", " padded ", "[title] of", "é", "")
YAML = """
task: own_task
dataset_path: json
dataset_name: absent
test_split: test
output_type: multiple_choice
doc_to_text: "{{number}} {{text}} {{code}}:"
doc_to_choice: choices
doc_to_target: label
metric_list: [{metric: acc}]
"""


@pytest.fixture(autouse=True)
def datasets_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


def rows() -> list[dict]:
    return [
        {"text": text, "code": f"00{n}", "number": n / 2, "choices": ["it's", f'"{n}"'], "label": n % 2}
        for n, text in enumerate(TRICKY)
    ]


def as_csv(rows: list[dict], lists=json.dumps) -> bytes:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]))
    writer.writeheader()
    writer.writerows({name: lists(v) if isinstance(v, list) else v for name, v in row.items()} for row in rows)
    return out.getvalue().encode()


def prompts(folder: Path, file: Path) -> list:
    (folder / "own_task.yaml").write_text(YAML)
    tasks = load_tasks(["own_task"], data=parse_data_option([f"own_task={file}"]), include_path=folder)
    build_instances(tasks)
    return [instance.args for instance in tasks["tasks"]["own_task"].instances]


def test_every_kind_of_file_holds_the_same_documents(tmp_path):
    jsonl = "".join(json.dumps(row) + "\n" for row in rows()).encode()
    mark, mac = b"\xef\xbb\xbf", as_csv(rows(), str)
    kinds = {
        "a.jsonl": jsonl,
        "mark.jsonl": mark + jsonl,
        "a.jsonl.gz": gzip.compress(jsonl, mtime=0),
        "a.json": json.dumps(rows()).encode(),
        "mark.json": mark + json.dumps(rows()).encode(),
        "a.JSON.gz": gzip.compress(json.dumps(rows()).encode()),
        "a.csv": as_csv(rows()),
        "python.csv": mac,
        "mark.csv": mark + as_csv(rows()),
        "a.csv.gz": gzip.compress(as_csv(rows())),
    }
    datasets.Dataset.from_list(rows()).to_parquet(tmp_path / "a.parquet")
    for name, content in kinds.items():
        (tmp_path / name).write_bytes(content)
    expected = prompts(tmp_path, tmp_path / "a.jsonl")
    assert len(expected) == 2 * len(TRICKY)
    assert any("1.5 007 003:" in str(request) for request in expected)
    for name in (*kinds, "a.parquet"):
        assert prompts(tmp_path, tmp_path / name) == expected, name


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", as_csv(rows()).decode().encode("utf-16"), "not UTF-8 text"),
        ("a.csv", "text,label\ncafé,1\n".encode("latin-1"), "not UTF-8 text"),
        ("a.csv", b"text,label\na,1,2,3\n\n", "."),
        ("a.csv", b'text,label\n"a,1\n', "as CSV"),
        ("a.csv", as_csv(rows(), lambda v: f"['{v[0]}' '{v[1]}']"), "row 1: .* cannot be read as a list; CSV has none"),
        ("a.csv.gz", as_csv(rows()), "as CSV"),
        ("a.jsonl.gz", gzip.compress(b'{"text": 1}\n', mtime=0)[:-9], "cannot read"),
        ("a.csv", b"text,label\n", "holds no rows|no rows for"),
        ("a.tsv", b"text\tlabel\n", r"unknown kind of file '.tsv'; expected .jsonl, .json, .csv, .jsonl.gz"),
    ],
)
def test_files_that_cannot_be_read_are_told_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as told:
        prompts(tmp_path, tmp_path / name)
    assert "\n" not in str(told.value)


# One file of each task as GLUE's zip has it: header (CoLA has none), a row, and what the hub's `glue` makes of it.
GLUE = {
    "cola": (None, 'gj04\t1\t\tHe said "no', ('He said "no',), 1),
    "mnli": (
        "index\tpromptID\tpairID\tgenre\tsentence1_parse\tsentence1\tsentence2\tlabel1\tgold_label",
        '0\t1\t1n\tfiction\t( a )\tIt "rains.\tIt is dry.\tneutral\tcontradiction',
        ('It "rains.', "It is dry."),
        2,
    ),
    "mrpc": (
        "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String",
        '1\t7\t8\t"A" said.\tA said "',
        ('"A" said.', 'A said "'),
        1,
    ),
    "qnli": ("index\tquestion\tsentence\tlabel", "0\tWhy?\tSo.\tnot_entailment", ("Why?", "So."), 1),
    "qqp": ("id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate", "0\t1\t2\tA?\tB?\t0", ("A?", "B?"), 0),
    "rte": ("index\tsentence1\tsentence2\tlabel", "0\tNA\tnull\tentailment", ("NA", "null"), 0),
    "sst2": ("sentence\tlabel", '"007" is fun \t1', ('"007" is fun ',), 1),
    "stsb": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore",
        "0\tnews\tx\t2012\t1\tnone\tnone\tA plane.\tA jet.\t3.800",
        ("A plane.", "A jet."),
        np.float32(3.8),
    ),
    "wnli": ("index\tsentence1\tsentence2\tlabel", "0\tA.\tB.\t1", ("A.", "B."), 1),
}


@pytest.mark.parametrize("name", GLUE)
@pytest.mark.parametrize("form", ["plain", "mark and carriage returns", "gz"])
def test_glues_own_files(tmp_path, name, form):
    header, row, texts, label = GLUE[name]
    content = "\n".join([*([header] if header else []), row, row, row]).encode() + b"\n"
    if form.startswith("mark"):
        content = b"\xef\xbb\xbf" + content.replace(b"\n", b"\r\n")
    file = tmp_path / ("train.tsv.gz" if form == "gz" else "train.tsv")
    file.write_bytes(gzip.compress(content, mtime=0) if form == "gz" else content)
    found = load_examples(glue_task(name), "train", file, limit=2)
    assert found.texts == (texts, texts)
    assert found.labels.tolist() == [label, label]


def test_a_folder_of_glues_is_both_splits(tmp_path):
    task = TASKS["mnli"]
    for file in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        (tmp_path / file).write_text("\n".join(GLUE["mnli"][:2]) + "\n")
    spec = GlueSpec("bert", tmp_path / "s.sqlite", ("mnli",), data=(f"mnli={tmp_path}",))
    expected = {"train": tmp_path / "train.tsv", task.validation_split: tmp_path / "dev_matched.tsv"}
    assert spec.files() == ((task, expected),)
    (tmp_path / "dev_matched.tsv").unlink()
    with pytest.raises(UserError, match=r"mnli: the folder .* has no dev_matched\.tsv"):
        spec.files()
    with pytest.raises(UserError, match="is a folder; give it without a split, mnli=FOLDER"):
        GlueSpec("bert", tmp_path / "s.sqlite", ("mnli",), data=(f"mnli:train={tmp_path}",)).files()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rte", b"index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\n", r"row 1: it has 3 of 4 columns"),
        ("rte", b"index\tsentence1\tsentence2\n0\tA.\tB.\n", "lacks the column label"),
        ("rte", b"index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tyes\n", "row 1: label 'yes' is not one of 0 to 1"),
        ("rte", b"index\tsentence1\tsentence2\tlabel\n", "holds no rows"),
        ("rte", b"", "is empty|lacks the column"),
        ("cola", b"index\tsentence\n0\tA.\n", "lacks the column label of cola"),
        ("sst2", "sentence\tlabel\nA.\t1\n".encode("utf-16"), "not UTF-8 text, but UTF-16"),
        ("sst2", "sentence\tlabel\ncafé\t1\n".encode("latin-1"), r"not UTF-8 text \(line 2\)"),
    ],
)
def test_mistakes_in_glues_files(tmp_path, name, content, message):
    (tmp_path / "train.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        load_examples(glue_task(name), "train", tmp_path / "train.tsv")


def test_qqps_broken_rows_are_left_out_as_on_the_hub(tmp_path):
    header, row, *_ = GLUE["qqp"]
    (tmp_path / "train.tsv").write_text(f"{header}\n{row}\n3\t4\t5\tcut\n{row}\n")
    assert len(load_examples(glue_task("qqp"), "train", tmp_path / "train.tsv")) == 2


def test_glue_texts_in_csv_are_texts_whatever_they_look_like(tmp_path):
    (tmp_path / "sst2.csv").write_text("sentence,label\n007,1\n12,0\n")
    found = load_examples(glue_task("sst2"), "validation", tmp_path / "sst2.csv")
    assert (found.texts, found.labels.tolist()) == ((("007",), ("12",)), [1, 0])

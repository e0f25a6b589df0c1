"""--json of every command: one document on standard output, of the shape that the command's file says, and no more."""

from __future__ import annotations

import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from jaxpaint.cli.parsing import COMMANDS, command
from tests.helpers.cli_fixtures import NOUNS, scoring
from tests.helpers.tiny_glue import pairs, tiny_store
from tests.helpers.tiny_results import make_store
from tests.helpers.tiny_tasks import make_task
from tests.helpers.vision_models import make_images, make_vit

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
TEXT = ("--text", "the kettle")


@pytest.fixture
def things(request, tmp_path, monkeypatch):
    """What the commands are given, by name, each made when it is asked for."""
    monkeypatch.chdir(tmp_path)

    def bert(_: Any) -> Path:
        return tiny_store(tmp_path)

    def glue(_: Any) -> list[str]:
        for split, seed, size in (("train", 0, 40), ("validation", 1, 10)):
            examples = pairs(seed, size)
            rows = [
                {"sentence1": first, "sentence2": second, "label": int(label)}
                for (first, second), label in zip(examples.texts, examples.labels, strict=True)
            ]
            file = tmp_path / f"rte_{split}.jsonl"
            file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return ["--data-dir", str(tmp_path)]

    def texts(_: Any) -> Path:
        file = tmp_path / "texts.txt"
        file.write_text("".join(f"{NOUNS[n % 8]} and {NOUNS[n % 7]} number {n}\n" for n in range(48)))
        return file

    def both_splits(files: Path) -> Path:
        for name in ("arc_challenge", "arc_challenge_train"):
            (tmp_path / f"{name}.jsonl").write_bytes((files / "arc_challenge.jsonl").read_bytes())
        return tmp_path

    def images(_: Any) -> Path:
        make_images(tmp_path / "images" / "test", 2, seed=0)
        return tmp_path / "images"

    made = {
        "vit": lambda _: make_vit(tmp_path / "vit"),
        "images": images,
        "bert": bert,
        "glue": glue,
        "texts": texts,
        "results": lambda _: make_store(tmp_path / "results.sqlite"),
        "task": lambda _: make_task(tmp_path, "tiny_choice", documents=12),
        "eval": lambda folder: scoring(folder, request.getfixturevalue("files"))[1:],
        "data": lambda _: ("--data-dir", both_splits(request.getfixturevalue("files"))),
    }

    def get(name: str) -> Any:
        return made[name](request.getfixturevalue("store")) if name in made else request.getfixturevalue(name)

    return get


# Of each command that answers its options, in which a name in angles is one of `things`.
FAST = {
    "plan": "0-5",
    "init": "",
    "convert": "<folder> made",
    "compose": "--model <store> --layers 0-2 --output made",
    "export": "<store> made --plan 0-2",
    "results": "<results> --diff full --sort score",
    "report": "<results>",
    "list": "strategies",
    "cache": "ls",
    "doctor": "",
    "study": "--model painter-16 --tasks painter_facts --limit 4 --store s.sqlite --dry-run",
    "list-stores": "stores .",
    "list-models": "models",
    "results-merge": "--merge merged.sqlite <results>",
}
SLOW = {
    "doctor-verify": "--verify <store>",
    "eval": "<eval> --limit 2",
    "logits": "--model <store>",
    "run": "--model <store>",
    "lens": "--model <store>",
    "routes": "--model <store>",
    "flow": "--model painter-16 --limit 4 --story 1",
    "masked": "--model <bert> --text-file <texts> --strategies skip --starts 1",
    "images": "--model <vit> --images <images> --plan 0-3 --limit 6",
    "generate": "--model <store> --prompt kettle --max-new-tokens 2 --plan 0-4 --plan 0-2",
    "study-done": "--model painter-16 --tasks painter_facts --limit 4 --strategies skip --starts 5 --store s.sqlite",
    "demo": "--limit 2",
    "search": "--model <store> --tasks <task> --budget cost=0.6 --store s.sqlite --plans 4 --calibration <texts>",
    "finetune": "--model <store> --tasks arc_challenge <data> --strategies skip --starts 1 --store s.sqlite",
    "heal": "--model <store> --plan 0-2 --calibration <texts> --steps 2 --batch-size 2 --length 16 --output healed",
    "heal-dry": "--model <store> --plan 0-2 --calibration <texts> --length 16 --output healed --dry-run",
    "glue": "--model <bert> --tasks rte --frozen --max-length 16 --epochs 1 --training-seeds 1 --store s.sqlite <glue>",
    "bench": "--model <store> --prompt-length 4 --new-tokens 2 --rounds 1",
    "birth": "--width 16 --length 16 --batch 4 --steps 10 --seeds 1 --arms none",
}


def _told(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith(("jaxpaint: error", "Traceback"))]


def asked(name: str, options: str, things) -> list[object]:
    words: list[object] = [name.partition("-")[0]]
    for word in options.split():
        found = things(word[1:-1]) if word.startswith("<") else word
        words += found if isinstance(found, list | tuple) else [found]
    return [*words, *(TEXT if name in ("logits", "run", "lens", "routes") else ())]


@pytest.mark.parametrize(
    ("name", "options"),
    [*FAST.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in SLOW.items() if each[1])],
)
@pytest.mark.few(6)
def test_one_document_of_its_shape(name, options, things, run) -> None:
    status, out, err = run(*asked(name, options, things), "--json")
    assert status == 0, err
    assert out.count("\n") == 1
    document = json.loads(out)
    shape = TypeAdapter(command(name.partition("-")[0]).Answer)
    # What the shape does not name would be gone.
    assert json.loads(shape.dump_json(shape.validate_json(out, strict=True))) == document
    assert _told(err) == []


def test_the_page_names_the_keys_of_every_document() -> None:
    page = (Path(__file__).parents[2] / "docs" / "command-line.md").read_text()
    table = page.split("| command | the document has |")[1].split("\n\n")[0]
    told: dict[str, set[str]] = {}
    in_part: set[str] = set()  # of which the page has only some keys
    for first, text in re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, re.MULTILINE):
        outside = re.sub(r"\[.*?\]|with --[a-z-]+|lm-eval's results", "", text)
        for name in first.removesuffix(" --dry-run").split(", "):
            told.setdefault(name, set()).update(set(re.findall(r"[a-z][a-z_-]*", outside)) - {"and"})
            in_part |= {name} if "…" in text else set()
    assert told.keys() == {name for name in COMMANDS if hasattr(command(name), "Answer")}
    for name, keys in told.items():
        shapes = typing.get_args(command(name).Answer) or (command(name).Answer,)
        known = {key for shape in shapes for key in shape.__annotations__}
        assert keys < known if name in in_part else keys == known, name


def test_every_command_that_answers_is_here() -> None:
    answering = {name for name in COMMANDS if hasattr(command(name), "Answer")}
    assert answering == {name.partition("-")[0] for name in (*FAST, *SLOW)}
    assert COMMANDS.keys() - answering == {"serve", "completion"}


@pytest.mark.parametrize("name", sorted({name.partition("-")[0] for name in (*FAST, *SLOW)}))
def test_a_mistake_is_one_line_on_standard_error_all_the_same(name, refused) -> None:
    refused(name, "--json", "--no-such-option")


def test_what_cannot_be_done_is_told_there_too(refused) -> None:
    refused("results", "no/such/store", "--json", expected=("does not exist",))
    refused("logits", "--model", "no/such/folder", *TEXT, "--json", expected=("no folder",))
    refused("plan", "7", "--layers", 4, "--json", expected=("layer 7",))

"""jaxpaint images: accuracies beside transformers' own, trained classifiers, and mistakes told in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convert import convert
from jaxpaint.models import checkpoint
from jaxpaint.plans.plan import Plan
from jaxpaint.tasks.images import read_images
from tests.helpers.vision_models import CLASSES, make_images, make_vit, torch_logits, torch_processor

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
COUNT = 8


@pytest.fixture(scope="module")
def vit(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vit")
    return convert(make_vit(folder / "model"), folder / "store")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_images(folder / "test", COUNT, seed=0)
    make_images(folder / "train", 2 * COUNT, seed=1)
    return folder


def _right(folder: Path, plan: str) -> np.ndarray:
    """Which of the test images transformers classifies right."""
    files = sorted((folder / "test").rglob("*.png"))
    opened = [Image.open(file).convert("RGB") for file in files]
    pixels = torch_processor()(opened, return_tensors="np").pixel_values
    labels = [CLASSES.index(file.parent.name) for file in files]
    return torch_logits(pixels, Plan.parse(plan)).argmax(axis=1) == labels


def test_its_own_head_under_plans(run, vit, images) -> None:
    plans = ["0-4", "0 {1-3} 4", "4-0"]
    given = [word for plan in plans[1:] for word in ("--plan", plan)]
    status, out, err = run("images", "--model", vit, "--images", images, *given, "--dtype", "float32", "--json")
    assert status == 0, err
    answer: dict[str, Any] = json.loads(out)
    assert (answer["images"], answer["classes"], answer["trained"]) == (COUNT * len(CLASSES), 3, None)
    rights = [_right(images, plan) for plan in plans]
    assert len({right.mean() for right in rights}) > 1, "alike, they would not show which plan ran"
    for found, plan, right in zip(answer["plans"], plans, rights, strict=True):
        assert found["plan"] == plan
        assert found["accuracy"] == pytest.approx(right.mean())
        each = right.astype(float) - rights[0]
        assert found["difference"] == pytest.approx(each.mean())
        assert found["difference_stderr"] == pytest.approx(each.std(ddof=1) / len(each) ** 0.5)


@pytest.mark.slow
def test_a_table_of_plans(run, vit, images) -> None:
    status, out, err = run("images", "--model", vit, "--images", images, "--plan", "0 {1-3} 4", "--limit", 7)
    assert status == 0, err
    first, _, heading, full, other, _, last = out.splitlines()
    assert first == "7 images of 3 classes, float32"
    assert heading.split() == ["plan", "cost", "accuracy", "less", "the", "full", "model"]
    assert (full.split()[:2], other.split()[:4]) == (["0-4", "5"], ["0", "{1-3}", "4", "5"])
    assert last.startswith("less the full model: on the same images")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "more"), [("head", ("--training-seeds", 2)), ("all", ("--learning-rate", "2e-3", "--training-seeds", 1))]
)
def test_trained_on_its_own_images(run, vit, images, what, more) -> None:
    settings = ("--epochs", 5, "--batch-size", 8, "--limit-train", 45, *more)
    asked = ("--model", vit, "--images", images, "--plan", "0 {1-3} 4", "--train", what)
    status, out, err = run("images", *asked, *settings, "--json")
    assert status == 0, err
    answer = json.loads(out)
    assert answer["trained"] == what
    for found in answer["plans"]:
        assert found["accuracy"] > 0.9, "colours tell these classes apart"


MISTAKES = [
    (("--images", "absent"), ("no folder absent; give one with images as absent/test/CLASS/*.png",)),
    (("--split", "validation"), ("has no folder validation of images", "it has test, train")),
    (("--plan", "0-9"), ("the model has 5 layers",)),
    (("--limit", 0), ("--limit is 0; expected 1 or more",)),
    (("--epochs", 2), ("--epochs: of training, and nothing is trained; give --train head or all",)),
    (("--train", "head", "--split", "train"), ("--split train is what is trained on",)),
    (("--train", "all", "--weights", "int8"), ("int8",)),
    (("--train", "head", "--training-seeds", "none"), ("--training-seeds: 'none' is not a number or a range",)),
]


@pytest.mark.parametrize(("options", "told"), MISTAKES)
def test_mistakes_are_one_line(refused, vit, images, monkeypatch, options, told) -> None:
    monkeypatch.setattr(checkpoint, "restore", lambda *arguments, **options: pytest.fail("weights were read"))
    refused("images", "--model", vit, "--images", images, *options, expected=told)


def test_folders_that_do_not_fit(refused, vit, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(checkpoint, "restore", lambda *arguments, **options: pytest.fail("weights were read"))
    asked = ("images", "--model", vit, "--images")
    (tmp_path / "none" / "test").mkdir(parents=True)
    refused(*asked, tmp_path / "none", expected=("has no images; put those of each class into a folder",))
    (tmp_path / "none" / "test" / "cat").mkdir()
    make_images(tmp_path / "none" / "test", 1, 0, ("dog",))
    refused(*asked, tmp_path / "none", expected=("cat has no images (.png, .jpg,",))
    make_images(tmp_path / "other" / "test", 1, 0, ("dogs",))
    told = "the model's head does not know the class dogs; did you mean dog? (it knows cat, dog, fox)"
    refused(*asked, tmp_path / "other", expected=(told,))
    make_images(tmp_path / "other" / "train", 1, 0, ("dog",))
    refused(*asked, tmp_path / "other", "--train", "head", expected=("train has one class, dog",))
    make_images(tmp_path / "other" / "train", 1, 0, ("cat",))
    refused(*asked, tmp_path / "other", "--train", "head", expected=("train does not know the class dogs",))


def test_hidden_files_are_no_images(tmp_path) -> None:
    make_images(tmp_path / "test", 1, 0)
    (tmp_path / "test" / "cat" / "._00.png").write_bytes(b"of a Mac")
    (tmp_path / "test" / "dog" / ".cache").mkdir()
    (tmp_path / "test" / "dog" / ".cache" / "00.png").write_bytes(b"of a browser of images")
    names = [str(file.relative_to(tmp_path / "test")) for file in read_images(tmp_path, "test").files]
    assert names == ["cat/00.png", "dog/00.png", "fox/00.png"]


@pytest.mark.slow
def test_an_image_that_cannot_be_read(refused, vit, tmp_path) -> None:
    make_images(tmp_path / "test", 1, 0)
    (tmp_path / "test" / "cat" / "00.png").write_bytes(b"nothing")
    refused("images", "--model", vit, "--images", tmp_path, expected=("00.png cannot be read as an image",))


def test_models_of_the_other_kind_are_told(refused, store, vit, images, tmp_path) -> None:
    refused("images", "--model", store, "--images", images, expected=("needs a model that sees images (vit)",))
    refused("glue", "--model", vit, "--store", tmp_path / "s.sqlite", expected=("GLUE needs a model that reads texts",))
    refused("masked", "--model", vit, "--text", "a cat", expected=("no masked-LM head",))
    refused("logits", "--model", vit, "--text", "a cat", expected=("needs a decoder", "an encoder (vit)"))

"""jaxpaint compose: a store that every command takes, and mistakes in one line."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")


def test_a_store_of_two_models(run, store, folder, tmp_path) -> None:
    made = tmp_path / "both"
    options = ("--model", f"A={store}", "--model", f"B={folder}", "--layers", "A:0-4 merge(B:1-3)", "--output", made)
    status, out, _ = run("compose", *options)
    assert (status, out) == (0, f"composed 6 layers into {made}\n")
    asked = ("logits", "--text", "the harbour", "--plan")
    status, told, _ = run(*asked, "0-4", "--model", made)
    assert (status, told) == (0, run(*asked, "0-4", "--model", store)[1])
    status, other, _ = run(*asked, "0 5 4", "--model", made)
    assert status == 0
    assert other != told
    status, _, err = run("compose", *options)
    assert (status, err.count("\n")) == (2, 1)
    assert str(made) in err
    assert run("compose", *options, "--overwrite")[0] == 0


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--layers", "0-5"), "there is no layer 5 in the model, which has 5: 0-4"),
        (("--layers", "0-"), "--layers, column 1: expected layers"),
        (("--layers", "A:0", "--model", "B=x"), "of several models each needs a name"),
    ],
)
def test_mistakes(refused, store, tmp_path, options, told) -> None:
    refused("compose", "--model", store, "--output", tmp_path / "made", *options, expected=(told,))
    assert not (tmp_path / "made").exists()


def test_a_name_twice(refused, store, tmp_path) -> None:
    names = ("--model", f"A={store}", "--model", f"A={store}")
    refused("compose", *names, "--layers", "A:0", "--output", tmp_path / "made", expected=("A is", "already"))

"""Stores whose files were cut, flipped or made up: one line of what is wrong, whatever reads them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from convert import export
from jaxpaint.base.errors import UserError
from jaxpaint.models import checkpoint, from_dict
from jaxpaint.models.tokenizer import load_tokenizer
from jaxpaint.plans.plan import Plan
from tests.helpers.hostile import Damage, as_first_stores, damage, documents, refused
from tests.helpers.tiny_folder import NUM_LAYERS

quick = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture
def changed(nothing_of_the_users, store, tmp_path) -> Path:
    """A copy of the tiny store to be damaged."""
    copy = tmp_path / "store"
    shutil.copytree(store, copy)
    return copy


def reads(store: Path) -> bool:
    """Whether everything that reads a store reads this one; what does not, tells a mistake."""
    exported = store.with_name("exported")
    refusals = [
        refused(lambda: checkpoint.read_config(store)),
        refused(lambda: checkpoint.restore(store)),
        refused(lambda: export(store, exported, Plan.parse("0-1"))),
    ]
    assert exported.exists() != refusals[-1]
    shutil.rmtree(exported, ignore_errors=True)
    return not any(refusals)


@pytest.mark.parametrize("with_hashes", [True, False])
@pytest.mark.parametrize("file", ["manifest.json", "config.json", "huggingface_config.json"])
@pytest.mark.few(1)
def test_any_json(changed, file, with_hashes) -> None:
    if not with_hashes:
        as_first_stores(changed)
    whole = (changed / file).read_bytes()

    @quick
    @given(documents(json.loads(whole)))
    def check(content: bytes) -> None:
        (changed / file).write_bytes(content)
        reads(changed)

    check()
    (changed / file).write_bytes(whole)
    assert reads(changed)


METADATA = ["parameters/_METADATA", "parameters/blocks.mlp.up_proj.kernel/.zarray"]


@pytest.mark.parametrize("with_hashes", [True, False])
@pytest.mark.parametrize("file", METADATA)
@pytest.mark.few(1)
def test_any_bytes_among_the_parameters(changed, file, with_hashes) -> None:
    if not with_hashes:
        as_first_stores(changed)
    whole = (changed / file).read_bytes()

    @quick
    @given(damage(len(whole)))
    def check(done: Damage) -> None:
        # Of the same size, or the number of bytes tells.
        (changed / file).write_bytes(done.of(whole)[: len(whole)].ljust(len(whole)))
        reads(changed)

    check()


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"])
def test_any_tokenizer(changed, file) -> None:
    """Without its hash, as a checkpoint that was so before it was converted has it."""
    as_first_stores(changed)
    path = changed / "tokenizer" / file
    special = {f"{name}_token": "<s>" for name in ("bos", "eos", "unk", "pad")} | {
        "additional_special_tokens": ["</s>"]
    }
    document = json.loads(path.read_text()) if path.exists() else special

    @quick
    @given(documents(document))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        refused(lambda: load_tokenizer(changed).encode("where she had found the kettle"))

    check()


def test_a_greatest_length_that_is_no_number(changed) -> None:
    """transformers compares it with a number only once a text is longer."""
    as_first_stores(changed)
    path = changed / "tokenizer" / "tokenizer_config.json"
    settings = json.loads(path.read_text()) | {"model_max_length": "3"}
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="model_max_length: input should be a valid number, not '3'"):
        load_tokenizer(changed)


def test_any_dictionary_of_a_config(store) -> None:
    given_back = json.loads((store / "config.json").read_text())

    @quick
    @given(documents(given_back))
    def check(content: bytes) -> None:
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):
            return
        if isinstance(values, dict):
            refused(lambda: from_dict(values))

    check()
    assert from_dict(given_back).num_hidden_layers == NUM_LAYERS

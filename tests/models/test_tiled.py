"""Models whose kernels lie as a processor's tiles read them: which ones do, and that what they say stays."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from jaxpaint import tiles
from jaxpaint.engine import whole
from jaxpaint.engine.lanes import as_data
from jaxpaint.engine.model import Model, from_parameters, load, plain_parameters
from jaxpaint.engine.program import enough_room
from jaxpaint.engine.random_weights import random_pair
from jaxpaint.engine.source import Source
from jaxpaint.generation import Prompt, generate
from jaxpaint.models import checkpoint
from jaxpaint.models.tiled import all_tiled, are_tiled
from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import PLANS, SIZES, tiny_like

pytestmark = pytest.mark.skipif(not tiles.are_here(), reason="no processor with AVX2, or no numba to compile for it")

WIDE = {"num_key_value_heads": 4, "intermediate_size": 64, "mlp_bias": True, "vocab_size": 96}
TOKENS = np.random.default_rng(0).integers(0, WIDE["vocab_size"], (4, 24))


@pytest.fixture(scope="module", params=["a head", "the embedding as head"])
def model(request: pytest.FixtureRequest) -> Model:
    return tiny_like("llama", **{**SIZES, **WIDE}, tie_word_embeddings=request.param != "a head").model


def rounded(model: Model, to: Any) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf.astype(to).astype(jnp.float32), nnx.to_pure_dict(model.state))


def in_bfloat16(model: Model) -> dict[str, Any]:
    return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), nnx.to_pure_dict(model.state))


def plain(model: Model, parameters: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Model:
    with monkeypatch.context() as without:
        without.setattr(tiles, "are_here", lambda: False)
        return from_parameters(model.config, parameters)


def calls(model: Model, tokens: np.ndarray = TOKENS) -> int:
    """Of the tiles' product in what is compiled for the tokens."""
    arguments = *as_data(PLANS[0], None), enough_room([PLANS[0]]), model.inputs(tokens)
    return whole.logits.lower(model.graphdef, model.state, *arguments).as_text().count(f"@{tiles.TARGET}(")


def test_kernels_that_are_whole_in_bfloat16_are_multiplied_by_tiles(model: Model) -> None:
    by_tiles = from_parameters(model.config, rounded(model, jnp.bfloat16))
    assert calls(by_tiles) == 8  # of a layer, compiled once, and of the head
    assert calls(by_tiles, TOKENS[:1, :1]) == 8
    assert calls(from_parameters(model.config, in_bfloat16(model))) == 8
    for others in (model, from_parameters(model.config, rounded(model, jnp.float16))):
        assert calls(others) == 0


def test_a_kernel_of_which_a_number_is_not_whole_stays(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers of both kinds lie apart where texts are written."""
    parameters = rounded(model, jnp.bfloat16)
    kernel = parameters["blocks"]["mlp"]["up_proj"]["kernel"]
    parameters["blocks"]["mlp"]["up_proj"]["kernel"] = kernel.at[-1, -1, -1].set(1 + 2**-9)
    found = from_parameters(model.config, parameters)
    assert calls(found) == 7
    assert found.transposed is None
    assert are_tiled(found.state["blocks"])
    assert not all_tiled(found.state["blocks"])
    assert all_tiled(from_parameters(model.config, rounded(model, jnp.bfloat16)).state["blocks"])
    prompts = [Prompt(tuple(map(int, row)), max_new_tokens=8) for row in TOKENS]
    both = found, plain(model, parameters, monkeypatch)
    written, expected = (list(generate(each, prompts, PLANS[:2])) for each in both)
    assert written == expected


def test_parameters_are_given_back(model: Model) -> None:
    """Layers' kernels take half of float32's memory, and training gets what there was."""
    narrow = in_bfloat16(model)
    given_back = plain_parameters(from_parameters(model.config, narrow))
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(given_back))
    jax.tree.map(np.testing.assert_array_equal, given_back, narrow)
    parameters = rounded(model, jnp.bfloat16)
    by_tiles = from_parameters(model.config, parameters)
    own, before = (flatten_dict(nnx.to_pure_dict(each), sep="/") for each in (by_tiles.state, model.state))
    kernels = {path for path in before if path.startswith("blocks/") and path.endswith("kernel")}
    assert {path for path, leaf in own.items() if tiles.is_packed(leaf)} == {*kernels, "tiled_head"}
    assert all(2 * own[path].nbytes == before[path].nbytes for path in kernels)
    assert by_tiles.parameters == model.parameters
    jax.tree.map(np.testing.assert_array_equal, plain_parameters(by_tiles), parameters)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_logits_are_those_without_tiles(model: Model, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    parameters = rounded(model, jnp.bfloat16)
    by_tiles, without = from_parameters(model.config, parameters), plain(model, parameters, monkeypatch)
    assert by_tiles.graphdef != without.graphdef
    for static in (False, True)[: 1 + (plan in PLANS[:4])]:
        found, expected = (each.logits(TOKENS, plan, static=static) for each in (by_tiles, without))
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("plan", PLANS[:3], ids=str)
def test_in_bfloat16_logits_are_as_near(model: Model, plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    """As without tiles, to those of the same parameters in float32."""
    narrow = in_bfloat16(model)
    exact, *both = (
        np.asarray(each.logits(TOKENS, plan))
        for each in (
            from_parameters(model.config, rounded(model, jnp.bfloat16)),
            from_parameters(model.config, narrow),
            plain(model, narrow, monkeypatch),
        )
    )
    by_tiles, without = (float(np.sqrt(np.mean((each - exact) ** 2))) for each in both)
    assert 0 < by_tiles <= 1.25 * without


@pytest.mark.parametrize("static", [False, True])
def test_texts_are_those_without_tiles(model: Model, static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [Prompt(tuple(map(int, row)), max_new_tokens=8) for row in np.tile(TOKENS, 2)]
    parameters = rounded(model, jnp.bfloat16)
    both = from_parameters(model.config, parameters), plain(model, parameters, monkeypatch)
    for few in (prompts[:1], prompts):
        found, expected = (list(generate(each, few, [PLANS[0]], static=static)) for each in both)
        assert found == expected


def test_a_store_in_bfloat16_is_read_as_tiles_read_it(
    model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels never lie in float32; quantised ones are not packed."""
    parameters = flatten_dict(rounded(model, jnp.bfloat16), sep="/")

    def fill(name: str, layer: int | None, out: np.ndarray) -> None:
        out[...] = np.asarray(parameters[name] if layer is None else parameters[name][layer])

    store = checkpoint.save(tmp_path / "store", model.config, fill, dtype="bfloat16", huggingface_config={})
    read: list[Any] = []
    own = tiles.packed
    monkeypatch.setattr(tiles, "packed", lambda kernel: read.append(kernel.dtype.name) or own(kernel))
    loaded = load(store, dtype="float32")
    assert read[:7] == ["bfloat16"] * 7
    assert "float32" not in read[:-1]  # the head's copy
    expected = from_parameters(model.config, rounded(model, jnp.bfloat16))
    jax.tree.map(np.testing.assert_array_equal, loaded.state, expected.state)
    assert calls(loaded) == 8
    narrow = from_parameters(model.config, in_bfloat16(model))
    jax.tree.map(np.testing.assert_array_equal, load(store, dtype="bfloat16").state, narrow.state)
    assert are_tiled(random_pair(Source.of(store, "float32")).state["blocks"])  # what takes as long is timed
    quantised = load(store, dtype="float32", weights="int8")
    assert not any(map(tiles.is_packed, jax.tree.leaves(quantised.state["blocks"])))


@pytest.mark.parametrize("lacks", ["numba", "a compiler", "calls that are known"])
def test_where_something_lacks_nothing_changes(
    model: Model, lacks: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if lacks == "numba":
        monkeypatch.setitem(sys.modules, "numba.core", None)
    elif lacks == "a compiler":
        monkeypatch.setattr("numba.core.config.DISABLE_JIT", 1)
    else:
        (tmp_path / "xla/ffi/api").mkdir(parents=True)
        (tmp_path / "xla/ffi/api/c_api.h").write_text("#define XLA_FFI_API_MAJOR 1\n")
        monkeypatch.setattr("jax.ffi.include_dir", lambda: str(tmp_path))
    monkeypatch.setattr(tiles, "are_here", tiles.are_here.__wrapped__)
    assert not tiles.are_here()
    assert calls(from_parameters(model.config, rounded(model, jnp.bfloat16))) == 0


def test_what_a_run_shows_is_as_without_tiles(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes derivatives of linear layers, and logits of single tokens."""
    parameters = rounded(model, jnp.bfloat16)
    both = from_parameters(model.config, parameters), plain(model, parameters, monkeypatch)
    runs = [each.run(TOKENS, PLANS[1]) for each in both]
    assert calls(both[0]) > calls(both[1]) == 0
    for what in (
        lambda run: run.logit_lens().logprobs,
        lambda run: run.logprobs(3),
        lambda run: run.attribution(5).attention,
        lambda run: run.attribution_by_head(5)[0],
    ):
        found, expected = map(what, runs)
        np.testing.assert_allclose(found, expected, atol=2e-5, rtol=2e-5)

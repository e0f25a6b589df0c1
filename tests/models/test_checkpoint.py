"""The converted store: what restores, onto which devices, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from flax.traverse_util import flatten_dict

from convert import store_for
from jaxpaint.base import memory
from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import Model
from jaxpaint.models import checkpoint
from tests.helpers.decoders import make_tiny

REPOSITORY = Path(__file__).resolve().parents[2]


def flat_parameters(model: Model) -> dict[str, np.ndarray]:
    return {path: np.asarray(value) for path, value in flatten_dict(nnx.to_pure_dict(model.state), sep="/").items()}


def save(model: Model, destination: Path, **options) -> Path:
    parameters = flat_parameters(model)

    def fill(path, layer, out):
        out[...] = parameters[path] if layer is None else parameters[path][layer]

    return checkpoint.save(destination, model.config, fill, huggingface_config={}, **{"dtype": "float32", **options})


@pytest.fixture(scope="module")
def model() -> Model:
    return make_tiny("grouped-query").model


@pytest.fixture
def store(tmp_path, model) -> Path:
    return save(model, tmp_path / "store")


def test_what_was_saved_is_restored(tmp_path, tiny):
    store = save(tiny.model, tmp_path / "store")
    assert checkpoint.is_store(store)
    assert checkpoint.read_config(store) == tiny.model.config
    restored, saved = checkpoint.restore(store), nnx.to_pure_dict(tiny.model.state)
    assert jax.tree.structure(restored) == jax.tree.structure(saved)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(restored))
    jax.tree.map(np.testing.assert_array_equal, restored, saved)


@pytest.mark.parametrize("chunk_bytes", [64, 1000, 10**6])
@pytest.mark.few(1)
def test_whatever_the_chunks(tmp_path, model, monkeypatch, chunk_bytes):
    monkeypatch.setattr(checkpoint, "CHUNK_BYTES", chunk_bytes)
    store = save(model, tmp_path / "store")
    saved = flat_parameters(model)
    for path, value in flatten_dict(checkpoint.restore(store), sep="/").items():
        np.testing.assert_array_equal(value, saved[path])


@pytest.mark.slow
def test_dtypes(tmp_path, model):
    saved = flat_parameters(model)
    narrow = save(model, tmp_path / "narrow", dtype="bfloat16")
    for path, value in flatten_dict(checkpoint.restore(narrow), sep="/").items():
        assert value.dtype == jnp.bfloat16
        np.testing.assert_array_equal(value, saved[path].astype(jnp.bfloat16))
    for path, value in flatten_dict(checkpoint.restore(narrow, dtype="float32"), sep="/").items():
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, saved[path].astype(jnp.bfloat16).astype(np.float32))
    wide = save(model, tmp_path / "wide")
    for path, value in flatten_dict(checkpoint.restore(wide, dtype=jnp.bfloat16), sep="/").items():
        np.testing.assert_array_equal(value, saved[path].astype(jnp.bfloat16))


def test_one_tensor_or_layer_is_read_alone(store, model):
    saved = flat_parameters(model)
    np.testing.assert_array_equal(checkpoint.read_tensor(store, "embed/embedding"), saved["embed/embedding"])
    path = "blocks/mlp/up_proj/kernel"
    np.testing.assert_array_equal(checkpoint.read_tensor(store, path, 2), saved[path][2])


SHARDED = """
import sys, jax, numpy as np
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding
from jaxpaint.models.checkpoint import restore
assert len(jax.devices()) == 4
mesh = Mesh(np.array(jax.devices()).reshape(2, 2), ("data", "model"))
def place(path, shape):
    assert isinstance(path, str) and isinstance(shape, tuple)
    last = "model" if path.endswith("kernel") and path.startswith("blocks") else None
    return NamedSharding(mesh, PartitionSpec(*[None] * (len(shape) - 1), last))
host = flatten_dict(restore(sys.argv[1]), sep="/")
for dtype in (None, "bfloat16"):
    for path, value in flatten_dict(restore(sys.argv[1], dtype=dtype, sharding=place), sep="/").items():
        assert value.sharding == place(path, value.shape), path
        assert len(value.addressable_shards) == 4
        width = value.shape[-1] // (2 if "kernel" in path and "blocks" in path else 1)
        assert all(shard.data.shape[-1] == width for shard in value.addressable_shards), path
        np.testing.assert_array_equal(value, host[path].astype(value.dtype), err_msg=path)
everywhere = NamedSharding(mesh, PartitionSpec())
assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(restore(sys.argv[1], sharding=everywhere)))
second = SingleDeviceSharding(jax.devices()[1])
assert all(leaf.sharding == second for leaf in jax.tree.leaves(restore(sys.argv[1], sharding=second)))
print("sharded")
"""


@pytest.mark.slow
def test_restoring_onto_shardings(store):
    flags = "--xla_force_host_platform_device_count=4"
    answer = subprocess.run(
        [sys.executable, "-c", SHARDED, str(store)],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == "sharded\n"


def test_hashes_and_fingerprint_follow_the_contents(tmp_path, model, store):
    import hashlib

    manifest, saved = checkpoint.read_manifest(store), flat_parameters(model)
    for path, tensor in manifest["tensors"].items():
        assert tensor["sha256"] == hashlib.sha256(saved[path].tobytes()).hexdigest()
        assert (tuple(tensor["shape"]), tensor["dtype"]) == (saved[path].shape, "float32")
    again = checkpoint.read_manifest(save(model, tmp_path / "again", source="elsewhere"))
    assert again["fingerprint"] == manifest["fingerprint"]
    narrow = checkpoint.read_manifest(save(model, tmp_path / "narrow", dtype="bfloat16"))
    assert narrow["fingerprint"] != manifest["fingerprint"]


def test_an_existing_destination_is_refused(tmp_path, model, store):
    with pytest.raises(UserError, match="exists already"):
        save(model, store)
    other = make_tiny("multi-head").model
    save(other, store, overwrite=True)
    assert checkpoint.read_config(store) == other.config
    assert not list(tmp_path.glob(".store*"))


def test_overwriting_replaces_stores_only(tmp_path, model):
    precious = tmp_path / "precious"
    precious.mkdir()
    save(model, precious)
    shutil.rmtree(precious)
    precious.mkdir()
    (precious / "thesis.tex").write_text("irreplaceable")
    with pytest.raises(UserError, match="left alone"):
        save(model, precious, overwrite=True)
    assert (precious / "thesis.tex").read_text() == "irreplaceable"


def test_a_failed_overwrite_keeps_the_old_store(tmp_path, model, store):
    def fill(path, layer, out):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(store, model.config, fill, dtype="float32", huggingface_config={}, overwrite=True)
    assert checkpoint.restore(store)
    assert not list(tmp_path.glob(".store*"))


def test_a_store_whose_replacement_was_killed_is_found_again(tmp_path, model, store):
    hidden = tmp_path / f".{store.name}.partial-99999999-replaced"
    before = checkpoint.read_manifest(store)
    for find in (checkpoint.read_manifest, store_for):
        store.rename(hidden)
        find(store)
        assert checkpoint.read_manifest(store) == before
        assert not hidden.exists()


def test_a_link_to_a_store_stays_a_link(tmp_path, model, store):
    (tmp_path / "link").symlink_to(store.name)
    save(model, tmp_path / "link", overwrite=True)
    assert (tmp_path / "link").is_symlink()
    assert checkpoint.restore(store)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted(["link", store.name])


def test_a_destination_that_cannot_be_written(tmp_path, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write into"):
        save(model, tmp_path / "file" / "store")


def change_manifest(store: Path, **values) -> None:
    file = store / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda store: shutil.rmtree(store), "no folder"),
        (lambda store: (store / "manifest.json").unlink(), r"not a converted store: its manifest\.json is missing"),
        (lambda store: (store / "manifest.json").write_text("{"), "not a converted store"),
        (lambda store: (store / "manifest.json").write_text("[]"), "not a converted store"),
        (lambda store: change_manifest(store, format="other"), "not a converted store"),
        (lambda store: change_manifest(store, format_version=99), "version 99, this jaxpaint reads version 1"),
        (lambda store: shutil.rmtree(store / "parameters"), "damaged: it lacks parameters"),
        (lambda store: (store / "config.json").unlink(), r"damaged: it lacks config\.json"),
    ],
)
def test_damaged_stores(store, damage, message):
    damage(store)
    for use in (checkpoint.read_manifest, checkpoint.read_config, checkpoint.restore, checkpoint.tokenizer_path):
        with pytest.raises(UserError, match=message):
            use(store)


@pytest.mark.parametrize("truncate", [True, False])
def test_missing_or_truncated_parameter_files(store, truncate):
    chunk = max((file for file in (store / "parameters").rglob("*") if file.is_file()), key=lambda f: f.stat().st_size)
    if truncate:
        chunk.write_bytes(chunk.read_bytes()[:-1])
    else:
        chunk.unlink()
    with pytest.raises(UserError, match=r"damaged: its parameters are .* files of .* bytes, and were"):
        checkpoint.restore(store)


def test_parameters_of_the_right_size_that_are_not_readable(store):
    metadata = next((store / "parameters").rglob(".zarray"))
    metadata.rename(metadata.with_name(".zarrax"))
    with pytest.raises(UserError, match="cannot be restored"):
        checkpoint.restore(store)


def test_other_folders_are_not_stores(tmp_path):
    assert not checkpoint.is_store(tmp_path)
    assert not checkpoint.is_store(tmp_path / "absent")
    with pytest.raises(UserError, match=r"not a converted store.*jaxpaint convert"):
        checkpoint.read_manifest(tmp_path)


def test_importing_the_store_is_light():
    code = (
        "import sys, jaxpaint.models.checkpoint, convert; print(sorted({'jax', 'orbax', 'torch'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert answer.stdout == "[]\n"


@pytest.mark.slow
def test_parameters_that_memory_does_not_hold_are_not_read(model, tmp_path, monkeypatch) -> None:
    store = save(model, tmp_path / "store")
    size = sum(value.nbytes for value in flat_parameters(model).values())
    needed = checkpoint.BESIDE_PARAMETERS + 2 * size  # what is kept, and what reading leaves behind
    monkeypatch.setattr(memory, "memory_left", lambda: needed - 1)
    with pytest.raises(UserError, match=r"loading the parameters of .* in float32 needs 0\.10 GB of memory"):
        checkpoint.restore(store)
    assert checkpoint.restore(store, dtype="bfloat16")  # less of it
    monkeypatch.setattr(memory, "memory_left", lambda: needed)
    assert checkpoint.restore(store)
    monkeypatch.setattr(checkpoint, "LEFT_BEHIND", size - 1)  # as if the store were large
    monkeypatch.setattr(memory, "memory_left", lambda: needed - 1)
    assert checkpoint.restore(store)


@pytest.mark.slow
def test_a_second_copy_is_counted_of_what_is_read_at_once(model, tmp_path, monkeypatch) -> None:
    store = save(model, tmp_path / "store")
    sizes = sorted((value.nbytes for value in flat_parameters(model).values()), reverse=True)
    monkeypatch.setattr(checkpoint, "BESIDE_PARAMETERS", 0)
    monkeypatch.setattr(checkpoint, "READING", 0)
    monkeypatch.setattr(checkpoint, "LEFT_BEHIND", 0)
    monkeypatch.setattr(memory, "memory_left", lambda: 2 * sum(sizes) - 1)
    with pytest.raises(UserError, match="loading the parameters"):
        checkpoint.restore(store)  # small ones are read together
    monkeypatch.setattr(checkpoint, "LARGE", 0)
    read = checkpoint.restore(store)  # one by one, the largest first: its copy finds the room of later ones
    assert sum(value.nbytes for value in jax.tree.leaves(read)) == sum(sizes)
    most = max(sum(sizes[: i + 1]) + size for i, size in enumerate(sizes))
    monkeypatch.setattr(memory, "memory_left", lambda: most)
    assert checkpoint.restore(store)
    monkeypatch.setattr(memory, "memory_left", lambda: most - 1)
    with pytest.raises(UserError, match="loading the parameters"):
        checkpoint.restore(store)


def test_conversion_needs_some_memory(model, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(memory, "memory_left", lambda: checkpoint.CONVERTING - 1)
    with pytest.raises(UserError, match=r"conversion needs 0\.05 GB of memory"):
        save(model, tmp_path / "store")
    assert list(tmp_path.iterdir()) == []

"""Checkpoints of training that were cut, flipped or made up: what cannot be read is told in one line."""

from __future__ import annotations

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jaxpaint.training.checkpoints import TrainingCheckpoints
from tests.helpers.hostile import damage, refused

STATE = {"step": np.int32(7), "weights": np.arange(96, dtype=np.float32).reshape(8, 12), "moments": (np.ones(3),)}


def like() -> dict:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), jnp.asarray(leaf).dtype), STATE)


@pytest.fixture
def written(tmp_path) -> TrainingCheckpoints:
    checkpoints = TrainingCheckpoints(tmp_path / "run")
    checkpoints.write(7, STATE)
    return checkpoints


def test_what_was_written_is_read(written) -> None:
    for kept, found in zip(jax.tree.leaves(STATE), jax.tree.leaves(written.latest(like)), strict=True):
        np.testing.assert_array_equal(kept, found)


def test_any_bytes_of_any_file(written, tmp_path) -> None:
    names = sorted(file.relative_to(written.folder) for file in written.folder.rglob("*") if file.is_file())
    sizes = {name: (written.folder / name).stat().st_size for name in names}
    choices = [st.tuples(st.just(name), damage(size)) for name, size in sizes.items() if size]

    @settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(st.one_of(choices))
    def check(chosen: tuple) -> None:
        name, done = chosen
        copy = TrainingCheckpoints(tmp_path / "copy")
        shutil.rmtree(copy.folder, ignore_errors=True)
        shutil.copytree(written.folder, copy.folder)
        (copy.folder / name).write_bytes(done.of((copy.folder / name).read_bytes()))
        refused(lambda: copy.latest(like))

    check()


@pytest.mark.parametrize("part", ["folder of the step", "a file in its place"])
def test_parts_that_are_not_there(written, part) -> None:
    (step,) = (entry for entry in written.folder.iterdir() if entry.is_dir())
    for inner in step.iterdir():
        shutil.rmtree(inner) if inner.is_dir() else inner.unlink()
    if part == "a file in its place":
        step.rmdir()
        step.write_text("")
    refused(lambda: written.latest(like))

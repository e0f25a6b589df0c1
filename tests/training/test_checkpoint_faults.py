"""Each change of a file fails while a checkpoint replaces another: the old one is there, or the new, whole."""

from __future__ import annotations

import json

import pytest

from tests.helpers.native_faults import compiled, preloaded

# Prints a line for each call that failed: it, the error, the values found, the names beside them, the values after
# another try.
CODE = """
import json, sys, time
from pathlib import Path
import jax, numpy as np
from jaxpaint.base.errors import UserError
from jaxpaint.training.checkpoints import TrainingCheckpoints
from tests.helpers.native_faults import Shim

place = Path(sys.argv[2]) / "run"
kept, shim = TrainingCheckpoints(place / "checkpoint"), Shim(sys.argv[1], place)

def state(value):
    return {"first": np.full((64, 64), value, np.float32), "second": (np.full(5, value, np.int32),)}

def write(value):
    try:
        kept.write(value, state(value))
    except UserError as error:
        return str(error)

def values():
    found = kept.latest(lambda: jax.eval_shape(lambda: jax.tree.map(jax.numpy.asarray, state(0))))
    return sorted({float(value) for leaf in jax.tree.leaves(found) for value in np.ravel(leaf)})

shim.arm(0)
number = 0
while True:
    number += 1
    shim.arm(0)
    assert write(1) is None
    shim.arm(number, lasting=sys.argv[3] == "lasting")
    error = write(2)
    failed = shim.failed
    shim.arm(0)
    if not failed:
        break
    time.sleep(0.05)  # for threads that should not be writing any more
    left = [file.name for file in place.iterdir()]
    found, _, again = values(), write(3), values()
    print(json.dumps([failed, error, found, left, again]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("lasting", ["once", "lasting"])
def test_every_call(tmp_path, lasting) -> None:
    try:
        library = compiled(tmp_path)
    except OSError as error:
        pytest.skip(f"no C compiler here: {error}")
    lines = preloaded(library, tmp_path, CODE, lasting).splitlines()
    assert len(lines) > 50
    for call, error, found, left, again in map(json.loads, lines):
        said = (call, error, left)
        assert found == [2.0] if error is None else found in ([1.0], [2.0]), said
        assert error is None or len(error.splitlines()) == 1, said
        assert left == ["checkpoint"] or call.startswith(("unlink", "rmdir")), said
        assert again == [3.0], said

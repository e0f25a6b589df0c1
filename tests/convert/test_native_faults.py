"""Each change of a file fails in a conversion, once or from then on, in TensorStore's threads too."""

from __future__ import annotations

import json

import pytest

from tests.helpers.native_faults import compiled, preloaded
from tests.helpers.tiny_folder import make_folder

# Prints a line for each call tried: it, the error, whether what is there is whole, the names beside it.
CODE = """
import faulthandler, json, sys, time
from pathlib import Path
from convert import convert
from jaxpaint.base.errors import UserError
from jaxpaint.models.verification import verify
from tests.helpers.native_faults import RUN_SECONDS, Shim

library, folder, lasting, step = sys.argv[1:]
place = Path(folder) / "place"
place.mkdir()
source, out, shim = Path(folder) / "model", place / "out", Shim(library, place)
fingerprint = verify(convert(source, out))["fingerprint"]
number = 1
while True:
    shim.arm(number, lasting=lasting == "lasting")
    error = None
    faulthandler.dump_traceback_later(RUN_SECONDS, exit=True)
    try:
        convert(source, out, overwrite=True)
    except UserError as caught:
        error = str(caught)
    faulthandler.cancel_dump_traceback_later()
    failed = shim.failed
    shim.arm(0)
    if not failed:
        break
    time.sleep(0.05)  # for threads that should not be writing any more
    is_whole = verify(out)["fingerprint"] == fingerprint
    print(json.dumps([failed, error, is_whole, sorted(file.name for file in place.iterdir())]))
    number += int(step)
"""


@pytest.mark.parametrize(
    ("lasting", "step"),
    [
        ("once", 25),
        pytest.param("once", 1, marks=pytest.mark.slow),
        pytest.param("lasting", 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_every_call(tmp_path, lasting, step) -> None:
    try:
        library = compiled(tmp_path)
    except OSError as error:
        pytest.skip(f"no C compiler here: {error}")
    make_folder(tmp_path / "model")
    lines = preloaded(library, tmp_path, CODE, lasting, str(step)).splitlines()
    assert len(lines) > 200 // step
    for call, error, is_whole, names in map(json.loads, lines):
        said = (call, error, names)
        assert is_whole, said
        assert error is None or len(error.splitlines()) == 1, said
        assert names == ["out"] or call.startswith("unlink"), said

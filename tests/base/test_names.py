"""Names from outside stay inside their folder."""

from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.base.names import inside


@pytest.mark.parametrize("name", ["model.safetensors", "a/b.bin", ".hidden", "..a", "a..b", "ein Name é"])
def test_names_inside(name):
    assert inside("/folder", name, "it") == Path("/folder", name)


LEADING_OUT = ["../a", "a/../../b", "/etc/passwd", "C:/a", "C:a", "..\\a", "..", "a/.."]


@pytest.mark.parametrize("name", [*LEADING_OUT, "", " ", "a\nb", "a\0", 5, None, ["a"]])
def test_names_that_lead_elsewhere_are_not_followed(name):
    with pytest.raises(UserError, match="it names"):
        inside("/folder", name, "it")

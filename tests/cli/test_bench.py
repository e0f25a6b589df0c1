"""jaxpaint bench."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("nothing_of_the_users")
SHAPE = ["--shape", "llama2-7b"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--compile-for", "a100", *SHAPE], ("'a100' is no kind of device", "v5e")),
        (["--compile-for", "v5e:2by2", *SHAPE], ("give chips as v5e:2x2",)),
        (["--compile-for", "v5e", "--shape", "llama9"], ("invalid choice: 'llama9'", "llama2-7b")),
        (["--compile-for", "v5e", *SHAPE, "--rows", 0], ("--rows is 0", "at least 1")),
        (["--compile-for", "v5e", *SHAPE, "--length", 4097], ("--length is 4097", "4096 positions")),
        (["--compile-for", "v5e", *SHAPE, "--plan", "0-99"], ("layers 32-99", "32 layers")),
        (["--compile-for", "v5e", "--shape", "bert-large", "--program", "decode"], ("encoder", "--program score")),
        (["--compile-for", "v5e:2x2", *SHAPE, "--tensor-parallel", 3], ("4 chips", "groups of 3")),
        (["--compile-for", "v5e:2x2", *SHAPE, "--layer-parallel", 3], ("4 chips", "3 lanes")),
        (["--compile-for", "h100", *SHAPE, "--offload"], ("--offload", "nothing of the host's memory")),
        (["--compile-for", "v5e:2x2", *SHAPE, "--layer-parallel", 2, "--tensor-parallel", 4], ("groups of 4",)),
    ],
)
def test_mistakes_are_told_in_one_line(run, arguments: list, expected: tuple[str, ...]) -> None:
    status, out, err = run("bench", *arguments)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert all(word in err for word in expected)


def test_a_compiler_that_is_not_installed_is_named(run, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for device, extra in (("v5e", "tpu-aot"), ("h100", "cuda-aot")):
        status, _, err = run("bench", "--compile-for", device, *SHAPE)
        assert status == 2
        assert f"pip install 'jaxpaint[{extra}]'" in err

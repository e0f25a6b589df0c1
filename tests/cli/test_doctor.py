"""jaxpaint doctor: what it says of this machine, and of others as the environment describes them."""

from __future__ import annotations

import json
import os
import re

import pytest

from jaxpaint import tiles
from jaxpaint.base import machine
from jaxpaint.cli import doctor
from tests.helpers.cli_fixtures import in_process

TOKEN = "hf_tHisIsNobodysToken"


@pytest.fixture(autouse=True)
def plain(nothing_of_the_users, monkeypatch, tmp_path):
    """A machine without containers, GPUs and settings, and caches of the test's own."""
    for name in ("JAX_PLATFORMS", "JAX_DISABLE_JIT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(machine, "NVIDIA", tmp_path / "no driver")
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "no cgroups")


def sentences(out: str) -> str:
    """The output without its line breaks."""
    return re.sub(r"\s+", " ", out)


def test_it_says_what_there_is(run, tmp_path) -> None:
    import jax

    converted = tmp_path / "cache" / "stores"
    (converted / "model").mkdir(parents=True)
    (converted / "model" / "weights").write_bytes(bytes(3_400_000))
    status, out, err = run("doctor")
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if len(line) > 80] == []
    assert "\x1b" not in out
    said = sentences(out)
    for part in (
        "devices cpu (",
        "dtype float32 (--dtype auto)",
        f"jax {jax.__version__}",
        "converted models, 3.4 MB, room for ",
        "HF_TOKEN is not set",
        "verdict it can run",
    ):
        assert part in said, out
    # A long path is broken where a line ends.
    assert str(converted) in re.sub(r"\s", "", out)


def test_it_leaves_nothing_behind(run, tmp_path) -> None:
    run("doctor")
    assert list(tmp_path.iterdir()) == []


def test_a_token_is_told_of_and_never_shown(run, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for arguments in ((), ("--json",)):
        status, out, err = run("doctor", *arguments)
        assert status == 0
        assert "HF_TOKEN is set" in out
        assert TOKEN not in out + err


def test_for_programs(run) -> None:
    status, out, _ = run("doctor", "--json")
    found = json.loads(out)
    assert status == 0
    assert found["devices"]["backend"] == "cpu"
    assert found["problems"] == []
    assert found["caches"]["converted"]["why_not"] is None
    assert found["machine"]["cores"] >= 1


def test_a_cache_that_cannot_be_written(run, monkeypatch, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "file" / "cache"))
    status, out, err = run("doctor")
    assert (status, err) == (1, "")
    said = sentences(out)
    assert "NOT writable" in said
    assert "Not a directory. Set JAXPAINT_CACHE to a folder that you may write to." in said
    assert "verdict it cannot run" in said


def test_a_package_that_is_missing(run, monkeypatch) -> None:
    monkeypatch.setattr(doctor, "REQUIRED", (*doctor.REQUIRED, "no-such-package"))
    status, out, _ = run("doctor")
    assert status == 1
    assert "no-such-package missing" in sentences(out)
    assert "broken Not installed: no-such-package. Run: pip install jaxpaint" in sentences(out)


@pytest.mark.parametrize(
    ("platforms", "expected"),
    [(None, "pip install 'jaxpaint[gpu]'"), ("cpu", "JAX_PLATFORMS keeps JAX from using: unset it")],
)
def test_a_gpu_that_jax_does_not_use(run, monkeypatch, tmp_path, platforms, expected) -> None:
    assert "NVIDIA" not in run("doctor")[1]
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    if platforms:
        monkeypatch.setenv("JAX_PLATFORMS", platforms)
    status, out, _ = run("doctor")
    assert status == 0
    assert "faster There is an NVIDIA GPU" in sentences(out)
    assert expected in sentences(out)


def test_what_multiplies(run, monkeypatch) -> None:
    """And what would do so faster."""
    for by, are_here, expected in [(None, False, "XLA"), ("vectors", False, "XLA"), ("tiles", True, "tiles")]:
        monkeypatch.setattr(tiles, "multiplied_by", lambda by=by: by)
        monkeypatch.setattr(tiles, "are_here", lambda are_here=are_here: are_here)
        said = sentences(run("doctor")[1])
        assert ("pip install numba" in said) == (by == "vectors")
        assert f"products by {expected}" in said
        assert json.loads(run("doctor", "--json")[1])["products"] == expected


def test_few_cores(run, monkeypatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert "JAX computes on 2 CPU cores: more cores" in sentences(run("doctor")[1])
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)), raising=False)
    assert "more cores" not in run("doctor")[1]


@pytest.mark.parametrize(
    ("own", "limits"),
    [
        # The lowest on the way up counts.
        ("0::/job/step\n", {"job/memory.max": "2000000000", "job/step/memory.max": "max"}),
        ("4:cpu:/\n3:memory:/host/only\n", {"memory/memory.limit_in_bytes": "2000000000"}),
    ],
)
def test_a_cgroup_limits_memory(run, monkeypatch, tmp_path, own, limits) -> None:
    (tmp_path / "own").write_text(own)
    for name, value in limits.items():
        file = tmp_path / "cgroups" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(value)
    monkeypatch.setattr(machine, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "CGROUPS", tmp_path / "cgroups")
    said = sentences(run("doctor")[1])
    assert "2.0 GB allowed by a cgroup" in said
    assert "allows 2.0 GB of the machine's" in said
    for name in limits:  # what cgroups say where there is no limit
        (tmp_path / "cgroups" / name).write_text("9223372036854771712")
    assert "cgroup (" not in (unlimited := run("doctor")[1])
    assert "by a cgroup" not in sentences(unlimited)


def test_nothing_is_compiled(run, monkeypatch) -> None:
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    assert "JAX_DISABLE_JIT is set" in run("doctor")[1]


def test_what_needs_a_process_of_its_own(tmp_path) -> None:
    """Settings that libraries read when they are imported."""
    (tmp_path / "file").write_text("")
    done = in_process("doctor", JAX_ENABLE_COMPILATION_CACHE="false", HF_HOME=str(tmp_path / "file" / "home"))
    assert done.returncode == 0, done.stdout + done.stderr  # offline nothing need be downloaded
    assert "JAX_ENABLE_COMPILATION_CACHE is off: every run compiles anew" in sentences(done.stdout)
    assert "offline (HF_HUB_OFFLINE)" in done.stdout
    online = in_process("doctor", HF_HUB_OFFLINE="0", HF_HOME=str(tmp_path / "file" / "home"))
    assert online.returncode == 1
    assert "Set HF_HOME to a folder that you may write to, or HF_HUB_OFFLINE=1" in sentences(online.stdout)


def test_jax_does_not_start() -> None:
    done = in_process("doctor", JAX_PLATFORMS="nonsense")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert "broken JAX does not start: Unable to initialize backend 'nonsense'" in sentences(done.stdout)


def test_an_installation_that_is_not_whole() -> None:
    code = (
        "import sys; sys.modules['huggingface_hub'] = None\nfrom jaxpaint.cli import main; sys.exit(main(['doctor']))"
    )
    done = in_process(code=code)
    assert (done.returncode, done.stderr) == (1, "")
    assert done.stdout == "broken    huggingface_hub is not installed. Run: pip install jaxpaint\n"

"""A store is used only where it is what was written: what is told, what is remembered, and what is hashed again."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.engine.model import load
from jaxpaint.models import checkpoint, verification
from jaxpaint.models.tokenizer import load_tokenizer
from tests.helpers.hostile import as_first_stores


@pytest.fixture
def mine(nothing_of_the_users, store, tmp_path, monkeypatch) -> Path:
    """A copy of the tiny store, and a cache that knows nothing of it."""
    monkeypatch.setenv("JAXPAINT_CACHE", str(tmp_path / "cache"))
    copy = tmp_path / "mine"
    shutil.copytree(store, copy)
    return copy


@pytest.fixture
def hashed(monkeypatch) -> list[Path]:
    """The stores that were hashed."""
    found, real = [], verification._require_hashes

    def counted(path, manifest):
        found.append(path)
        real(path, manifest)

    monkeypatch.setattr(verification, "_require_hashes", counted)
    return found


def settle(store: Path) -> None:
    """Waits until a change can be told by its time."""
    newest = max(file.stat().st_ctime for file in (store / "parameters").rglob("*"))
    time.sleep(max(0.0, newest + 1.5 * verification.SETTLED - time.time()))


def weights(store: Path) -> Path:
    """The largest file of numbers of the up projections."""
    files = (store / "parameters" / "blocks.mlp.up_proj.kernel").iterdir()
    return max((file for file in files if not file.name.startswith(".")), key=lambda file: file.stat().st_size)


def flip(file: Path) -> None:
    """Another number, the size kept."""
    data = bytearray(file.read_bytes())
    data[7] ^= 0x80
    file.write_bytes(data)


@pytest.mark.slow
def test_it_is_hashed_once(mine, hashed, monkeypatch) -> None:
    settle(mine)
    monkeypatch.chdir(mine.parent)
    mine.with_name("link").symlink_to(mine)
    for path in (mine, mine, str(mine), Path("mine"), mine.with_name("link")):
        checkpoint.restore(path)
        assert hashed == [mine]
    shutil.copytree(mine, mine.parent / "other")
    settle(mine.parent / "other")
    checkpoint.restore(mine.parent / "other")
    assert hashed == [mine, mine.parent / "other"]


def test_what_was_just_written_is_not_remembered(mine, hashed, monkeypatch) -> None:
    """A change in the same tick of the clock would not be seen."""
    monkeypatch.setattr(verification, "SETTLED", 1e6)
    checkpoint.restore(mine)
    checkpoint.restore(mine)
    assert hashed == [mine, mine]


def test_it_runs_where_nothing_can_be_remembered(mine, hashed, monkeypatch) -> None:
    (mine.parent / "file").write_text("")
    monkeypatch.setenv("JAXPAINT_CACHE", str(mine.parent / "file"))
    settle(mine)
    checkpoint.restore(mine)
    checkpoint.restore(mine)
    assert hashed == [mine, mine]


@pytest.mark.parametrize("verified_before", [False, True])
@pytest.mark.parametrize("times", ["new", "kept"])
@pytest.mark.few(2)
def test_a_changed_number_is_found(mine, verified_before, times) -> None:
    settle(mine)
    if verified_before:
        checkpoint.restore(mine)
    file = weights(mine)
    state = file.stat()
    flip(file)
    if times == "kept":
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))
    for use in (checkpoint.restore, load, verification.verify):
        with pytest.raises(UserError, match=r"damaged: blocks/mlp/up_proj/kernel changed since it was written.*remove"):
            use(mine)


def test_another_file_in_its_place_is_found(mine) -> None:
    settle(mine)
    checkpoint.restore(mine)
    file = weights(mine)
    other = file.with_name("other")
    shutil.copy2(file, other)
    flip(other)
    shutil.copystat(file, other)
    other.replace(file)
    with pytest.raises(UserError, match="changed since it was written"):
        checkpoint.restore(mine)


def test_what_left_no_trace_is_found_on_demand(mine, monkeypatch, run) -> None:
    settle(mine)
    checkpoint.restore(mine)
    states = verification._states(mine)
    flip(weights(mine))
    monkeypatch.setattr(verification, "_states", lambda path: states)
    checkpoint.restore(mine)
    status, out, err = run("doctor", "--verify", mine)
    assert (status, out) == (2, "")
    assert "blocks/mlp/up_proj/kernel changed since it was written" in err
    with pytest.raises(UserError, match="changed"):  # and is not forgotten
        checkpoint.restore(mine)


def test_it_can_be_asked_for(mine, run, monkeypatch) -> None:
    status, out, err = run("doctor", "--verify", mine)
    assert (status, err) == (0, "")
    assert out.startswith(f"{mine} is what was written: ")
    status, out, _ = run("doctor", "--verify", mine, "--json")
    assert json.loads(out)["fingerprint"] == checkpoint.read_manifest(mine)["fingerprint"]
    # Where it takes long it says how far it is.
    monkeypatch.setattr(verification, "PATIENCE", (0.0, 0.0))
    _, _, err = run("doctor", "--verify", mine)
    assert f"verifying {mine}, once on this machine: 9" in err  # per cent, for the files' headers count too


def change(file: Path, **values) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


DAMAGE = {
    "another epsilon": lambda store: change(store / "config.json", rms_norm_eps=0.5),
    "more layers": lambda store: change(store / "config.json", num_hidden_layers=9),
    "a name more": lambda store: change(store / "config.json", zz=1),
    "an empty config": lambda store: (store / "config.json").write_text("{}"),
    "no JSON": lambda store: (store / "config.json").write_bytes(b"\xa1\x00junk"),
    "another fingerprint": lambda store: change(store / "manifest.json", fingerprint="0" * 64),
    "no tensors": lambda store: change(store / "manifest.json", tensors={}),
    "tensors in a list": lambda store: change(store / "manifest.json", tensors=[1]),
    "no measure": lambda store: change(store / "manifest.json", parameters=None),
    "another dtype": lambda store: change(store / "manifest.json", dtype=["float32"]),
    "files in a list": lambda store: change(store / "manifest.json", files=["a"]),
}


# What only the manifest's own hash tells.
DAMAGE_SINCE = {
    "another source": lambda store: change(store / "manifest.json", source="another"),
    "another revision": lambda store: change(store / "manifest.json", revision="main"),
}
CASES = [(False, damage) for damage in (DAMAGE | DAMAGE_SINCE).values()] + [
    (True, damage) for damage in DAMAGE.values()
]
NAMES = [*DAMAGE, *DAMAGE_SINCE, *(f"{name}, first stores" for name in DAMAGE)]


@pytest.mark.parametrize(("first", "damage"), CASES, ids=NAMES)
@pytest.mark.few(1)
def test_config_and_manifest_are_compared_at_every_start(mine, first, damage) -> None:
    if first:
        as_first_stores(mine)
    settle(mine)
    checkpoint.restore(mine)
    damage(mine)
    for use in (checkpoint.read_manifest, checkpoint.read_config, checkpoint.restore, load, load_tokenizer):
        with pytest.raises(UserError) as caught:
            use(mine)
        assert str(mine) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_nothing_is_kept_of_a_damaged_store(mine, files, run, tmp_path) -> None:
    flip(weights(mine))
    task = ("--tasks", "lambada_openai", "--data", f"lambada_openai={files / 'lambada_openai.jsonl'}", "--limit", 2)
    for arguments in (
        ("logits", "--model", mine, "--text", "hi"),
        ("generate", "--model", mine, "--prompt", "hi", "--max-new-tokens", 8),
        ("export", mine, tmp_path / "exported", "--plan", "0-1"),
        ("study", "--model", mine, *task, "--strategies", "skip", "--store", tmp_path / "s.sqlite"),
        ("eval", "--model", mine, *task, "--output", tmp_path / "eval.json"),
    ):
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), arguments
        assert err.splitlines()[-1].startswith("jaxpaint: error: "), err
        assert "changed since it was written" in err
    assert {path.name for path in tmp_path.iterdir()} <= {"mine", "cache"}


def test_a_store_that_is_replaced_while_it_is_read(mine, monkeypatch) -> None:
    settle(mine)
    real = verification._require_hashes

    def replacing(path, manifest):
        real(path, manifest)
        shutil.copytree(path, path.with_name("new"))
        shutil.rmtree(path)
        path.with_name("new").rename(path)

    monkeypatch.setattr(verification, "_require_hashes", replacing)
    with pytest.raises(UserError, match="changed or replaced while it was read"):
        checkpoint.restore(mine)


TOKENIZER_DAMAGE = {
    "changed": lambda folder: change(folder / "tokenizer_config.json", add_bos_token=True),
    "a file more": lambda folder: (folder / "added_tokens.json").write_text('{"kettle": 0}'),
    "a file less": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("damage", TOKENIZER_DAMAGE.values(), ids=TOKENIZER_DAMAGE)
@pytest.mark.few(1)
def test_other_tokens_would_be_other_scores(mine, damage) -> None:
    settle(mine)
    load_tokenizer(mine)
    checkpoint.restore(mine)
    damage(mine / "tokenizer")
    for use in (load_tokenizer, checkpoint.restore):
        with pytest.raises(UserError, match=r"tokenizer/.*(was added|is not the file|cannot be read)"):
            use(mine)


def test_what_export_copies_is_compared(mine, run, tmp_path) -> None:
    change(mine / "huggingface_config.json", rms_norm_eps=0.5)
    status, _, err = run("export", mine, tmp_path / "exported", "--plan", "0-1")
    assert status == 2
    assert "huggingface_config.json is not the file that the store was written with" in err
    assert not (tmp_path / "exported").exists()


def test_stores_without_hashes_of_their_other_files_go_on(mine) -> None:
    as_first_stores(mine)
    (mine / "tokenizer" / "notes.txt").write_text("mine")
    assert load(mine).tokenizer.encode("hi")


def test_ctrl_c_ends_it_at_once(mine, monkeypatch) -> None:
    """Threads that hash are not waited for to the end."""
    real, read = verification._parts, []

    def slow(stored, tensor):
        for part in real(stored, tensor):
            read.append(part)
            yield part
            while not stopped:
                time.sleep(0.01)

    stopped: list[bool] = []

    def interrupted(pool, function, names):
        for name in names:
            pool.submit(function, name)
        while not read:
            time.sleep(0.01)
        threading.Timer(0.2, stopped.append, [True]).start()
        raise KeyboardInterrupt

    monkeypatch.setattr(verification, "_parts", slow)
    monkeypatch.setattr(verification.ThreadPoolExecutor, "map", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.restore(mine)
    assert len(read) <= 2 * verification.THREADS

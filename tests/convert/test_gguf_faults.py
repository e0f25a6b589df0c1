"""GGUF files that are none, or damaged, plans that no GGUF file has, and destinations that are there already."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type
from gguf import GGUFReader

from convert import export_gguf, gguf_files, to_gguf
from jaxpaint.base.errors import UserError
from jaxpaint.plans.plan import Plan
from tests.helpers import gguf_models
from tests.helpers.gguf_models import NUM_LAYERS, expected_bytes, tensor_bytes, write_layers

FULL = Plan.of(range(NUM_LAYERS))


@pytest.fixture
def source(tmp_path):
    return write_layers(tmp_path / "full.gguf")


def refused(source: Path, plan: str = "0", match: str = "", name: str = "short.gguf") -> str:
    """Nothing is written, and the source is as it was."""
    before = sorted(source.parent.rglob("*"))
    with pytest.raises(UserError, match=match) as raised:
        export_gguf(source, source.parent / name, Plan.parse(plan))
    assert sorted(source.parent.rglob("*")) == before
    return str(raised.value)


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ("0 {1 2} 3", "only series plans can be exported.* jaxpaint serve runs them"),
        ("0 sum{1 2}", "only series plans can be exported"),
        ("0-4@0.5", "only series plans can be exported"),
        ("0 lp{1 2} 3", "only series plans can be exported"),
        ("0-2 3m~1", "share norms"),
        ("0-5", "layer 5, but the model has 5 layers"),
        ("0 99", "layer 99"),
    ],
)
def test_plans_that_a_file_cannot_have(source, plan, why):
    refused(source, plan, why)


@pytest.mark.parametrize("content", [b"", b"GG", b"GGUX" + bytes(100), b"PK\3\4"])
def test_what_is_no_gguf(tmp_path, content):
    (tmp_path / "full.gguf").write_bytes(content)
    refused(tmp_path / "full.gguf", match="not a GGUF file")


def test_what_is_no_file(tmp_path):
    (tmp_path / "full.gguf").mkdir()
    refused(tmp_path / "full.gguf", match="not a regular file")
    refused(tmp_path / "absent.gguf", match=r"cannot be read: No such file")


def test_truncated_anywhere(source):
    """In its keys, among its tensors' names, and in the last tensor."""
    whole = source.read_bytes()
    reader = GGUFReader(source)
    end = max(tensor.data_offset + tensor.n_bytes for tensor in reader.tensors)
    start = reader.data_offset
    for kept in {*range(4, start, 37), start - 1, start, start + 1, (start + end) // 2, end - 1}:
        source.write_bytes(whole[:kept])
        refused(source, match=f"cut short or damaged.*ends at byte {kept}")
    source.write_bytes(whole[:end])  # all but what fills up the last tensor
    assert tensor_bytes(export_gguf(source, source.with_name("short.gguf"), FULL)) == tensor_bytes(source)


def test_more_entries_than_the_file_has_bytes(tmp_path):
    source = write_layers(tmp_path / "full.gguf", scores=[0.5] * 7)
    counted = (6).to_bytes(4, "little") + (7).to_bytes(8, "little")
    content = source.read_bytes()
    assert content.count(counted) == 1
    source.write_bytes(content.replace(counted, counted[:4] + (1 << 60).to_bytes(8, "little")))
    refused(source, match="more than 4,000,000 values")
    source.write_bytes(content.replace(counted, counted[:4] + (3_000_000).to_bytes(8, "little")))
    refused(source, match="ends at byte")


def test_damaged_bytes_end_in_a_line_or_in_a_file(source, tmp_path):
    content, generator = source.read_bytes(), np.random.default_rng(0)
    start, said, written = GGUFReader(source).data_offset, [], 0
    for _ in range(300):
        damaged = bytearray(content)
        for place in generator.integers(4, start, generator.integers(1, 4)):
            damaged[place] = generator.choice([0, 1, 128, 255, generator.integers(256)])
        source.write_bytes(damaged)
        try:
            export_gguf(source, tmp_path / "short.gguf", Plan.parse("1 0"), overwrite=True)
        except UserError as error:
            said.append(str(error))
        else:
            written += 1
    assert not [line for line in said if "\n" in line]
    assert min(len(said), written) > 20


@pytest.mark.parametrize(
    ("architecture", "keys", "plan", "why"),
    [
        ("llama4", {}, "0", "architecture 'llama4', whose layers may depend on their place"),
        ("llama", {"leading_dense_block_count": 1}, "0", "leading_dense_block_count is 1"),
        ("llama", {"nextn_predict_layers": 2}, "0", "nextn_predict_layers is 2"),
        ("llama", {"attention__head_count": [1, 2, 3]}, "0", "attention.head_count has 3 entries for 5 layers"),
        ("gemma2", {}, "1-4", "layer 1 would be layer 0, and gemma2 has full attention in every layer of 2"),
        ("gemma3", {"attention__sliding_window_pattern": 3}, "0 2", "layer 2 would be layer 1, and gemma3"),
        ("gemma2", {}, "0 1a 2m", "runs sublayers, and exporting a GGUF file of gemma2 takes whole layers only"),
        ("gpt2", {}, "0m", "whole layers only"),
    ],
)
def test_models_whose_layers_are_what_they_are_by_their_place(tmp_path, architecture, keys, plan, why):
    refused(write_layers(tmp_path / "full.gguf", architecture, **keys), plan, why)


def test_a_number_of_layers_by_which_a_model_is_known(tmp_path):
    source = write_layers(tmp_path / "full.gguf", "gemma2", num_layers=46)
    refused(source, "0-43", "with 46 llama.cpp takes a gemma2 for the model of 27B")
    export_gguf(source, tmp_path / "same.gguf", Plan.parse("2 3 0 1 4-45"))
    source = write_layers(tmp_path / "full.gguf", "gemma2", num_layers=42)
    refused(source, "0-41 38-41", "with 46")


def test_a_model_that_lacks_what_a_plan_needs(tmp_path):
    source = write_layers(tmp_path / "full.gguf")
    content = source.read_bytes()
    source.write_bytes(content.replace(b"blk.3.", b"xlk.3."))
    refused(source, "0 3", "no tensors of layer 3")
    assert len(tensor_bytes(export_gguf(source, tmp_path / "other.gguf", Plan.parse("0 2")))) > 6
    source.write_bytes(content.replace(b"blk.3.ffn_down", b"blk.3.ffn_gate"))
    refused(source, "0 3a", "layer 3 has no output that could be zeros")
    source.write_bytes(content.replace(b"blk.3.ffn_down", b"blk.3.odd_down"))
    refused(source, "0 3a", "of neither half")
    source.write_bytes(content.replace(b"llama.block_count", b"llama.block_Count"))
    refused(source, "0", "llama.block_count is None; expected a number")
    source.write_bytes(content.replace(b"general.architecture", b"general.Architecture"))
    refused(source, "0", "names no general.architecture")
    other = {"a": (np.ones((2, 32), np.float32), Type.F32)}
    adapter = gguf_models.write(tmp_path / "adapter.gguf", "llama", {"block_count": 5}, other)
    adapter.write_bytes(adapter.read_bytes().replace(b"\5\0\0\0\0\0\0\0model", b"\5\0\0\0\0\0\0\0mmodl"))
    refused(adapter, "0", "no model but, by its general.type, 'mmodl'")


def test_a_destination_that_is_there(source, tmp_path):
    short = export_gguf(source, tmp_path / "short.gguf", Plan.parse("0 1"))
    refused(source, "2", "exists already; .*--overwrite")
    assert tensor_bytes(short) == expected_bytes(source, [0, 1])
    short.chmod(0o640)
    export_gguf(source, short, Plan.parse("2"), overwrite=True)
    assert tensor_bytes(short) == expected_bytes(source, [2])
    assert stat.S_IMODE(short.stat().st_mode) == 0o640
    short.write_text("mine")
    with pytest.raises(UserError, match="left alone"):
        export_gguf(source, short, Plan.parse("2"), overwrite=True)
    assert short.read_text() == "mine"
    (tmp_path / "folder.gguf").mkdir()
    refused(source, "2", "is a folder", name="folder.gguf")
    refused(source, "2", r"name it .*short\.gguf", name="short")


def test_never_over_the_model_itself(source, tmp_path):
    (tmp_path / "link.gguf").symlink_to(source)
    os.link(source, tmp_path / "hard.gguf")
    before = source.read_bytes()
    for name in ("full.gguf", "link.gguf", "hard.gguf"):
        with pytest.raises(UserError, match="is the model itself"):
            export_gguf(source, tmp_path / name, FULL, overwrite=True)
    network = gguf_models.tiny_network()
    gguf_models.write_model(tmp_path / "p.gguf", network, split_max_tensors=30)
    with pytest.raises(UserError, match="is the model itself"):
        export_gguf(tmp_path / "p-00001-of-00002.gguf", tmp_path / "p-00002-of-00002.gguf", FULL, overwrite=True)
    assert source.read_bytes() == before


def test_modes_are_those_of_new_files_and_folders_are_made(source, tmp_path):
    old = os.umask(0o027)
    try:
        made = export_gguf(source, tmp_path / "a" / "b" / "short.gguf", FULL)
    finally:
        os.umask(old)
    assert stat.S_IMODE(made.stat().st_mode) == 0o640
    assert [file.name for file in made.parent.iterdir()] == ["short.gguf"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, UserError])
def test_an_interrupted_export_leaves_nothing(source, tmp_path, error):
    def interrupt(message, done, total):
        if done > total / 2:
            raise error

    with pytest.raises(error):
        export_gguf(source, tmp_path / "new" / "short.gguf", FULL, progress=interrupt)
    assert [file.name for file in tmp_path.iterdir()] == ["full.gguf"]


def test_a_source_that_shrinks_meanwhile(source, tmp_path):
    def shrink(message, done, total):
        os.truncate(source, GGUFReader(source).data_offset + 10) if done < 100 else None

    with pytest.raises(UserError, match="was changed while it was read"):
        export_gguf(source, tmp_path / "short.gguf", FULL, progress=shrink)
    assert not list(tmp_path.glob("*short*"))


def test_a_disk_without_room(source, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(source, "0-4", "GB free and the export needs")


def test_tensors_are_read_in_pieces(source, tmp_path, monkeypatch):
    monkeypatch.setattr(to_gguf, "PIECE", 7)
    seen = []
    exported = export_gguf(source, tmp_path / "s.gguf", FULL, progress=lambda what, done, total: seen.append(done))
    assert max(after - before for before, after in zip([0, *seen], seen, strict=False)) == 7
    assert tensor_bytes(exported) == tensor_bytes(source)


def test_parts_that_are_not_all_there(tmp_path):
    gguf_models.write_model(tmp_path / "p.gguf", gguf_models.tiny_network(), split_max_tensors=20)
    first, second, third = sorted(tmp_path.glob("p-*.gguf"))
    refused(second, match=r"part 2 of 3; give the first, p-00001-of-00003\.gguf")
    saved = third.read_bytes()
    third.write_bytes(second.read_bytes())
    refused(first, match="is not part 3 of 3")
    third.unlink()
    refused(first, match=r"p-00003-of-00003\.gguf is not beside it")
    third.write_bytes(saved)
    first.rename(tmp_path / "other.gguf")
    refused(tmp_path / "other.gguf", match="one of 3 parts, but not named")


def test_without_the_package(source, monkeypatch):
    monkeypatch.setattr(gguf_files, "find_spec", lambda name: None)
    refused(source, match=r"pip install 'jaxpaint\[gguf\]'")

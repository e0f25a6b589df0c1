"""Configurations with any value at any place, of every family: read or refused at once, from files and from Python."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxpaint.models import from_dict, from_huggingface, with_layers
from jaxpaint.models.llama import LlamaConfig
from tests.helpers.hostile import JSON, places, refused

FAMILIES = json.loads((Path(__file__).parents[1] / "old" / "families.json").read_text())
SIZES = {
    "vocab_size": 61,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 32,
}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {"type": "su", "short_factor": [1.0], "long_factor": [2.0]}
LATER = {
    "falcon": {"rope_scaling": YARN, "new_decoder_architecture": True, "num_kv_heads": 8, "intermediate_size": None},
    "olmo2": {"rope_scaling": YARN, "attention_bias": True},
    "olmo3": {"rope_scaling": YARN, "sliding_window": 8},
    "phi3": {"rope_scaling": LONGROPE, "original_max_position_embeddings": 16, "partial_rotary_factor": 1.0},
    "qwen3": {"rope_scaling": YARN, "use_sliding_window": True, "max_window_layers": 1, "head_dim": 4},
    "stablelm": {"rope_scaling": YARN, "partial_rotary_factor": 1.0, "use_qkv_bias": True},
    "vit": {"vocab_size": None, "image_size": [8, 12], "patch_size": 4, "id2label": {"0": "cat", "1": "dog"}},
}
for model_type, own in LATER.items():
    raw = {"model_type": model_type, **SIZES, **own}
    FAMILIES[model_type] = {"huggingface": raw, "config": json.loads(json.dumps(from_huggingface(raw).to_dict()))}
READERS = {"huggingface": from_huggingface, "config": from_dict}
BEYOND_JSON = st.sampled_from([float("inf"), float("-inf"), float("nan"), 10**5000])
NEW = st.sampled_from(
    ["rope_scaling", "rope_parameters", "layer_types", "sliding_window", "partial_rotary_factor", "zz"]
)


def changed(document: dict, changes: list) -> dict:
    """A copy with other values at some places; what stood above a place may be gone by then."""
    document = copy.deepcopy(document)
    for place, value in changes:
        holder = document
        for key in place[:-1]:
            holder = holder[key] if isinstance(holder, dict) and key in holder else {}
        if isinstance(holder, dict):
            holder[place[-1]] = value
    return document


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.few(3)
def test_any_value_at_any_place(name, what) -> None:
    raw = FAMILIES[name][what]
    place = st.sampled_from([place for place in places(raw) if place]) | NEW.map(lambda key: (key,))

    @settings(max_examples=60)
    @given(st.lists(st.tuples(place, JSON | BEYOND_JSON), min_size=1, max_size=3))
    def check(changes: list) -> None:
        began = time.process_time()
        config = []
        if not refused(lambda: config.append(READERS[what](changed(raw, changes)))):
            # What was read is a config: it can be stored and read back, and says how its layers compute.
            assert from_dict(json.loads(json.dumps(config[0].to_dict()))) == config[0]
            assert config[0].num_hidden_layers <= 10_000
            assert not config[0].capabilities.decoder or config[0].traits
        assert time.process_time() - began < 10  # nothing is built that is as large as the config says

    check()


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("name", FAMILIES)
def test_any_name_that_lacks(name, what) -> None:
    raw = FAMILIES[name][what]
    for lacking in raw:
        refused(lambda lacking=lacking: READERS[what]({key: raw[key] for key in raw if key != lacking}))
    assert refused(lambda: READERS[what]({}))


@pytest.mark.parametrize("layers", [10**7, 10**12, -1, 0, 2.5, "3", None])
def test_a_config_made_in_python_has_bounds_too(layers) -> None:
    sizes = {"model_type": "llama", "vocab_size": 48, "hidden_size": 16, "intermediate_size": 24}
    rest = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "max_position_embeddings": 64}
    rest |= {"rms_norm_eps": 1e-5, "rope_theta": 1e4}
    assert refused(lambda: LlamaConfig(**sizes, num_hidden_layers=layers, **rest))
    made = LlamaConfig(**sizes, num_hidden_layers=3, **rest)
    assert refused(lambda: with_layers(made, range(10_001)))

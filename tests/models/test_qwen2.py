"""How Qwen2's windows in some of its layers are read; what is computed with them is in `test_families.py`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jaxpaint.models import from_dict, from_huggingface, with_layers
from jaxpaint.models.fields import ConfigError
from tests.helpers.decoders import NUM_LAYERS, WINDOW, make_tiny


def test_windows_are_read_as_transformers_reads_them() -> None:
    raw = make_tiny("qwen2, windows in turn").raw_config
    config = from_huggingface(raw)
    assert from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.traits.windows == (None, WINDOW, None, WINDOW, None)
    assert with_layers(config, (3, 0)).traits.windows == (WINDOW, None)
    older = {**{name: value for name, value in raw.items() if name != "layer_types"}, "max_window_layers": 3}
    assert from_huggingface(older).traits.windows == (None,) * 3 + (WINDOW,) * 2
    assert from_huggingface({**older, "use_sliding_window": False}).traits.windows == (None,) * NUM_LAYERS


@pytest.mark.parametrize(
    "change", [{"layer_types": ["full_attention"]}, {"layer_types": ["chunked"] * 5}, {"use_sliding_window": False}]
)
def test_other_kinds_of_layers_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="layer_types"):
        from_huggingface({**make_tiny("qwen2, windows in turn").raw_config, **change})

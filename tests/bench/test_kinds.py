"""Devices by name, and shapes by name."""

from __future__ import annotations

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.bench.ahead import layer_parameters
from jaxpaint.bench.kinds import Target
from jaxpaint.bench.shapes import SHAPES, config_of


@pytest.mark.parametrize(
    ("text", "chips", "topology"),
    [("v5e", 1, "2x2"), ("v5e:2x2", 4, "2x2"), ("v5p:2x2x1", 4, "2x2x1"), ("h100", 1, "1x1x1"), ("h100:4", 4, "1x1x4")],
)
def test_names_of_devices(text: str, chips: int, topology: str) -> None:
    target = Target.parse(text)
    assert (target.chips, target.topology, target.kind.name) == (chips, topology, text.split(":")[0])


@pytest.mark.parametrize("text", ["a100", "", "v5e:", "v5e:0x2", "v5e:2y2", "h100:-1", "h100:\u0663", "v5e:2x2x9999"])
def test_what_is_no_device(text: str) -> None:
    with pytest.raises(UserError, match=r"no kind of device|give chips as"):
        Target.parse(text)


# In thousands of millions, as their makers say (embeddings left out: kernels of the layers).
@pytest.mark.parametrize(
    ("shape", "size"),
    [("llama2-7b", 6.48), ("llama2-13b", 12.69), ("llama2-70b", 68.45), ("mistral-7b", 6.98), ("pythia-6.9b", 6.44)],
)
def test_shapes_are_those_of_the_models(shape: str, size: float) -> None:
    config = config_of(shape)
    assert layer_parameters(config) * config.num_hidden_layers / 1e9 == pytest.approx(size, abs=0.01)


def test_every_shape_is_read() -> None:
    assert {config_of(shape).model_type for shape in SHAPES} == {
        *("bert", "gpt_neox", "llama", "mistral", "modernbert", "olmo2", "phi3", "qwen3", "stablelm"),
    }
    with pytest.raises(UserError, match="shape 'llama3' is not one of llama2-7b"):
        config_of("llama3")

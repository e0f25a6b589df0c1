"""The weight names of the Llama family: Hugging Face's on one side, ours on the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from jaxpaint.models.config import LlamaConfig

IGNORED_SUFFIXES = (".rotary_emb.inv_freq",)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


@dataclass(frozen=True)
class Weight:
    """A parameter of ours and its Hugging Face name, with `{layer}` where it is stacked.

    Kernels are [in, out] here and [out, in] there.
    """

    path: str
    name: str
    transposed: bool

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.name

    def of_layer(self, layer: int | None) -> str:
        return self.name.format(layer=layer)

    def shape(self, stacked: tuple[int, ...]) -> tuple[int, ...]:
        """The Hugging Face tensor's shape, for the shape of our stacked one."""
        shape = stacked[1:] if self.stacked else stacked
        return shape[::-1] if self.transposed else shape


def expected(shapes: Mapping[str, tuple[int, ...]], config: LlamaConfig) -> dict[str, tuple[int, ...]]:
    """Every Hugging Face name that a checkpoint of this configuration has, with its shape."""
    found = {}
    for path, shape in shapes.items():
        entry = weight(path)
        for layer in range(config.num_hidden_layers if entry.stacked else 1):
            found[entry.of_layer(layer)] = entry.shape(shape)
    return found


def weight(path: str) -> Weight:
    """The entry of our path: `blocks/mlp/up_proj/kernel` is `model.layers.{layer}.mlp.up_proj.weight`."""
    *modules, leaf = path.split("/")
    if modules == ["embed"]:
        return Weight(path, EMBEDDING, transposed=False)
    if modules == ["lm_head"]:
        return Weight(path, HEAD, transposed=True)
    prefix = ["model", "layers", "{layer}", *modules[1:]] if modules[0] == "blocks" else ["model", *modules]
    return Weight(path, ".".join([*prefix, "bias" if leaf == "bias" else "weight"]), transposed=leaf == "kernel")

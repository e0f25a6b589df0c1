"""The weight names of the Llama family."""

from __future__ import annotations

from jaxpaint.models.family import Names, Weight

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def weight(path: str) -> Weight:
    """The entry of our path: `blocks/mlp/up_proj/kernel` is `model.layers.{layer}.mlp.up_proj.weight`."""
    *modules, leaf = path.split("/")
    if modules == ["embed"]:
        return Weight(path, EMBEDDING, transposed=False)
    if modules == ["lm_head"]:
        return Weight(path, HEAD, transposed=True)
    prefix = ["model", "layers", "{layer}", *modules[1:]] if modules[0] == "blocks" else ["model", *modules]
    return Weight(path, ".".join([*prefix, "bias" if leaf == "bias" else "weight"]), transposed=leaf == "kernel")


NAMES = Names(weight, EMBEDDING, HEAD, buffers=(".rotary_emb.inv_freq",))

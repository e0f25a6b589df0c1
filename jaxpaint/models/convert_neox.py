"""The weight names of GPT-NeoX (Pythia and kin)."""

from __future__ import annotations

from jaxpaint.models.family import Names, Weight

EMBEDDING, HEAD = "gpt_neox.embed_in.weight", "embed_out.weight"


def weight(path: str) -> Weight:
    """The entry of our path: `blocks/attention/dense/kernel` is `gpt_neox.layers.{layer}.attention.dense.weight`."""
    *modules, leaf = path.split("/")
    if modules == ["embed"]:
        return Weight(path, EMBEDDING, transposed=False)
    if modules == ["lm_head"]:
        return Weight(path, HEAD, transposed=True)
    prefix = ["layers", "{layer}", *modules[1:]] if modules[0] == "blocks" else ["final_layer_norm"]
    name = ".".join(["gpt_neox", *prefix, "bias" if leaf == "bias" else "weight"])
    return Weight(path, name, transposed=leaf == "kernel")


# Older checkpoints hold each layer's causal mask and the value that it masks with.
NAMES = Names(weight, EMBEDDING, HEAD, buffers=(".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias"))

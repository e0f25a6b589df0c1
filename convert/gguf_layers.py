"""What a GGUF file's layers are by their place, and which of their tensors belong to which half."""

from __future__ import annotations

from collections.abc import Sequence

from convert.gguf_files import GgufFile
from convert.halves import Assembled
from jaxpaint.base.errors import UserError

# Architectures whose layers llama.cpp runs alike wherever they stand. In others a layer's place or the number of layers
# decides over windows, positions, experts, scales or images (llama4, smollm3, cohere2, minicpm, granite, ...).
ALIKE = {
    *("llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gptneox", "gpt2", "bloom", "falcon", "gemma", "phi2"),
    *("stablelm", "starcoder2", "olmo", "internlm2"),
}
# Every so many layers the last has full attention, the others a window; and the number of layers from which llama.cpp
# concludes that it is the model of 27B, whose attention is scaled otherwise.
IN_TURN = {"gemma2": (2, 46), "gemma3": (6, 62)}
# Numbers that say of layers by their place what they are, with the value that says nothing.
BY_PLACE = {
    "leading_dense_block_count": 0,
    "nextn_predict_layers": 0,
    "n_deepstack_layers": 0,
    "attention.shared_kv_layers": 0,
    "interleave_moe_layer_step": 1,
    "moe_every_n_layers": 0,
    "full_attention_interval": 1,
    "rescale_every_n_layers": 0,
}
# Of those in which a layer adds its attention, then its feed-forward, each to what came before.
WITH_HALVES = {"llama", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gptneox"}
HALVES = {"attn_": "attention", "ffn_": "mlp", "exp_probs_b": "mlp"}
OUTPUTS = ("attn_output", "ffn_down")
OF_FEED_FORWARDS = ("feed_forward", "expert")


def residuals(source: GgufFile) -> str:
    """Whether both halves of a layer read one input, in the words of `jaxpaint.models.family.Traits`."""
    return "side by side" if source.value(f"{source.architecture}.use_parallel_residual") else "in series"


def require_movable(source: GgufFile, layers: Sequence[int], num_layers: int) -> None:
    """Raises UserError where a layer would be another one in its new place."""
    architecture = source.architecture
    if architecture not in ALIKE and architecture not in IN_TURN:
        known = ", ".join(sorted({*ALIKE, *IN_TURN}))
        raise UserError(
            f"{source.file} is of the architecture {architecture[:40]!r}, whose layers may depend on their place; "
            f"layers can be moved in {known}"
        )
    for key, nothing in BY_PLACE.items():
        if (found := source.count(f"{architecture}.{key}", nothing)) != nothing:
            raise UserError(f"{source.file}: {architecture}.{key} is {found}, so what a layer is depends on its place")
    if architecture in IN_TURN:
        _require_kinds(source, layers, num_layers)


def _require_kinds(source: GgufFile, layers: Sequence[int], num_layers: int) -> None:
    architecture = source.architecture
    period, large = IN_TURN[architecture]
    key = f"{architecture}.attention.sliding_window_pattern"
    if key in source.fields and source.array_length(key) is None:
        period = max(source.count(key), 1)
    moved = [(old, new) for new, old in enumerate(layers) if ((old + 1) % period == 0) != ((new + 1) % period == 0)]
    if moved:
        old, new = moved[0]
        raise UserError(
            f"layer {old} would be layer {new}, and {architecture} has full attention in every layer of {period} and a "
            "window in the others, by their place; jaxpaint serve runs such a plan of the model's checkpoint"
        )
    if num_layers != len(layers) and large in (num_layers, len(layers)):
        raise UserError(
            f"the plan has {len(layers)} layers and the model {num_layers}; with {large} llama.cpp takes a "
            f"{architecture} for the model of 27B, and scales attention otherwise"
        )


def layer_of_key(key: str, layer: Assembled) -> int:
    """Whose entry of an array with one for each layer an exported layer has."""
    own = layer.mlp if any(word in key for word in OF_FEED_FORWARDS) else layer.attention
    return layer.kind if own is None else own


def layer_of_tensor(name: str, layer: Assembled) -> tuple[int, bool]:
    """Whose tensor of this name in a layer an exported layer has, and whether it is zeros in its place.

    Raises:
        UserError: the exported layer's halves are not one layer's, and the tensor is of neither.
    """
    if layer.attention == layer.mlp:
        return layer.kind, False
    half = next((half for start, half in HALVES.items() if name.startswith(start)), None)
    if half is None:
        raise UserError(f"a layer's {name} is of neither half of it, so sublayers cannot be written; name whole layers")
    own = layer.attention if half == "attention" else layer.mlp
    return (layer.kind, is_output(name)) if own is None else (own, False)


def is_output(name: str) -> bool:
    """Whether a tensor of a layer, or a bias, is the last that a half goes through: with zeros in it nothing is added.

    `attn_output_norm` and the like are no such.
    """
    module = name.split(".")[0]
    return module == OUTPUTS[0] or module in (OUTPUTS[1], f"{OUTPUTS[1]}_exps", f"{OUTPUTS[1]}_shexp")

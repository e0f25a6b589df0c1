"""Which of a checkpoint's tensors are the model's weights, under whatever names they were saved.

Training wraps a model in others, and each puts its name before, or between, those of the weights; an encoder is saved
with the head of a task, or by itself. The base model is where its embedding is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from convert.tensors import Tensor, abbreviated
from jaxpaint.base.errors import UserError
from jaxpaint.models.family import Names

# Parts of names that stand for a wrapper around a module: torch.compile, DataParallel, FSDP and its checkpointing,
# DeepSpeed, and what peft leaves around a layer after its adapter is gone.
WRAPPERS = frozenset(
    ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module", "base_layer")
)
# What adapters add: their weights change those of the layers that they stand in.
ADAPTERS = ("lora_", "ia3_", "vera_", "oft_", "hada_", "modules_to_save", "prompt_embeddings", "adapters")


@dataclass(frozen=True)
class Selection:
    """The weights by their canonical names, the names left out, and whether the base was saved by itself."""

    weights: Mapping[str, Tensor]
    left_out: Sequence[str]
    base_alone: bool


def select(tensors: Mapping[str, Tensor], names: Names, source: str) -> Selection:
    """Sorts a checkpoint's tensors into weights, buffers and heads that are left out.

    Raises:
        UserError: an adapter's weights, two models in one checkpoint, two spellings of one weight, weights that are no
            floats.
    """
    plain = {name: _unwrapped(name) for name in tensors}
    adapters = [name for name, bare in plain.items() if any(part.startswith(ADAPTERS) for part in bare.split("."))]
    if adapters:
        raise UserError(
            f"{source} holds an adapter beside its weights, which changes what they compute ({abbreviated(adapters)}); "
            "merge it into them (peft: merge_and_unload) and save the model again, or give the adapter's folder with "
            "--adapter"
        )
    prefix = _prefix(plain.values(), names, source)
    weights: dict[str, Tensor] = {}
    left_out = []
    for name, tensor in tensors.items():
        if plain[name].endswith(names.buffers):
            continue
        ours = None if plain[name].endswith(names.unread) else _ours(plain[name], prefix, names)
        if ours is None:
            left_out.append(name)
            continue
        tensor.require_floats()
        other = weights.setdefault(names.canonical(ours), tensor)
        if other is not tensor:
            raise UserError(f"{other.name} in {other.file} and {name} in {tensor.file} are the same weight; keep one")
    return Selection(weights, left_out, not f".{prefix}".endswith(f".{names.base}."))


def canonical_name(name: str, names: Names) -> str:
    """The canonical name of a tensor that belongs to a model's, such as an adapter's bias; another's stays as it is."""
    bare = _unwrapped(name)
    ours = _ours(bare, f"{names.base}." if bare.startswith(f"{names.base}.") else "", names)
    return bare if ours is None else names.canonical(ours)


def _unwrapped(name: str) -> str:
    """Without what names of wrappers it has; peft's stands before all others."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS).removeprefix("base_model.model.")


def _prefix(plain: Iterable[str], names: Names, source: str) -> str:
    """What stands before the names of the base model's modules, its dot included."""
    own = f"{names.base}."
    embedding = names.embedding.removeprefix(own)
    plain = list(plain)
    found = {name.removesuffix(embedding) for name in plain if name == embedding or name.endswith(f".{embedding}")}
    if len(found) > 1 and own not in found:
        listed = abbreviated([f"{prefix}{embedding}" for prefix in sorted(found)])
        raise UserError(f"{source} holds more than one model ({listed}); save the one to convert by itself")
    if found:
        return own if own in found else found.pop()
    return own if any(name.startswith(own) for name in plain) else ""


def _ours(name: str, prefix: str, names: Names) -> str | None:
    """A weight's canonical name; None for what is beside the base model and no head that we read."""
    inside = name.removeprefix(prefix)
    if (prefix and inside != name) or name.split(".")[0] in names.modules:
        return f"{names.base}.{inside}"
    outer = prefix.removesuffix(".").rpartition(".")
    beside = name.removeprefix(f"{outer[0]}.") if outer[1] else name
    return beside if beside.startswith(names.kept) else None

"""A store under a series plan, written back as a Hugging Face checkpoint."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convert.card import model_card
from convert.halves import Assembled, assembled, source_of, whole
from jaxpaint.base.disk import require_room
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import new_folder, require_new
from jaxpaint.base.names import inside
from jaxpaint.models import checkpoint, family_of, with_layers
from jaxpaint.models.checkpoint import Progress
from jaxpaint.models.derived import huggingface_config_of
from jaxpaint.models.family import Config, Names, Traits
from jaxpaint.plans.plan import Plan
from jaxpaint.results.plan_scores import PlanScore

SHARD_BYTES = 10**9


def export(
    store: str | Path,
    destination: str | Path,
    plan: Plan,
    *,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
    progress: Progress | None = None,
    scores: Sequence[PlanScore] = (),
    command: str | None = None,
) -> Path:
    """Writes the model whose layers are those of a series plan, dropped, repeated or reordered, and returns its path.

    A sublayer is a layer whose other half adds zeros, or half of a layer with the sublayer that follows. Shards hold
    at most `shard_bytes`, or one tensor; memory holds two such. The folder has a model card with `scores`, where they
    are given, and the `command` that made it.

    Raises:
        UserError: a plan that runs layers in parallel or names one that the model lacks; no such store, or a damaged
            one.
    """
    import numpy as np
    from safetensors.numpy import save_file

    store = Path(store)
    config = checkpoint.read_config(store)
    require_exportable(config, destination, plan, overwrite=overwrite)
    traits: Traits | None = getattr(config, "traits", None)
    layers = whole(plan.sequence()) if traits is None else assembled(plan, traits.residuals)
    tokenizer = [_tokenizer_file(store, name) for name in checkpoint.read_manifest(store)["tokenizer"]]
    weight_map = {}
    with (
        new_folder(destination, overwrite=overwrite, replaces=_is_huggingface) as folder,
        checkpoint.verified(store) as manifest,
    ):
        shards = _shards(_entries(family_of(config.model_type).names, manifest["tensors"], layers, traits), shard_bytes)
        total, done = sum(entry.size for shard in shards for entry in shard), 0
        require_room(folder.parent, total, "the export")
        for number, shard in enumerate(shards, start=1):
            file = "model.safetensors" if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            tensors = {}
            for entry in shard:
                value = checkpoint.read_tensor(store, entry.path, entry.place)
                value = np.zeros_like(value) if entry.zeros else value
                tensors[entry.name] = np.ascontiguousarray(value.T if entry.transposed else value)
                weight_map[entry.name] = file
                done += entry.size
                if progress:
                    progress(f"writing {file}", done, total)
            save_file(tensors, folder / file, metadata={"format": "pt"})
            del tensors
        if len(shards) > 1:
            _write_json(
                folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
            )
        original = huggingface_config_of(store)
        written = rearranged(original, with_layers(config, [each.kind for each in layers]), manifest["dtype"])
        _write_json(folder / "config.json", {**written, "layer_plan": str(plan)})
        for kept in tokenizer:
            _copy(kept, folder / kept.name, store)
        if checkpoint.GENERATION_CONFIG in manifest.get("files", {}):
            _copy(store / checkpoint.GENERATION_CONFIG, folder / checkpoint.GENERATION_CONFIG, store)
        card = folder / "README.md"
        card.write_text(model_card(Path(destination).name, plan, manifest, scores, command), encoding="utf-8")
        for file in set(weight_map.values()):  # which safetensors lets only their owner read
            (folder / file).chmod(card.stat().st_mode)
    return Path(destination)


def require_exportable(config: Config, destination: str | Path, plan: Plan, *, overwrite: bool = False) -> None:
    """Raises UserError for what `export` refuses by the model's configuration alone."""
    plan.validate(config.num_hidden_layers)
    if not plan.is_series:
        raise UserError(
            f"only series plans can be exported: a Hugging Face {config.model_type} model has no layers side by side, "
            f"as {plan} has"
        )
    if plan.shares_norms:
        raise UserError(
            f"a Hugging Face {config.model_type} model has no feed-forwards that share norms, as {plan} has"
        )
    if not config.capabilities.decoder:
        plan.of_whole_layers("exporting an encoder")
        _require_norms(config, plan)
    require_new(destination, overwrite=overwrite, replaces=_is_huggingface)


def _require_norms(config: Config, plan: Plan) -> None:
    """Raises UserError where the first layer should norm what its attention reads, or a later one should not."""
    norms = getattr(config, "attention_norms", None)
    if norms and [norms[layer] for layer in plan.sequence()] != [False, *[True] * (len(plan.sequence()) - 1)]:
        without = ", ".join(str(layer) for layer, has in enumerate(norms) if not has)
        raise UserError(
            f"a Hugging Face {config.model_type} has no norm before the attention of its first layer, and one in every "
            f"other: export a plan that begins with a layer without one (here {without or 'there is none'}) and has no "
            f"other such layer, not {plan}"
        )


def _tokenizer_file(store: Path, name: str) -> Path:
    """A file that the manifest names. Raises UserError where it is none of the store's tokenizer."""
    where = str(store / "manifest.json")
    file = inside(store / "tokenizer", name, where)
    if file.parent != store / "tokenizer" or not file.resolve().is_relative_to(store.resolve()):
        raise UserError(f"{where} names {name!r}, which is no file of the store's tokenizer/; it was not followed")
    if not file.is_file():
        raise UserError(f"the store {store} is damaged: it lacks tokenizer/{file.name}, which its manifest names")
    return file


def _copy(file: Path, to: Path, store: Path) -> None:
    if to.exists():
        raise UserError(f"{store / 'manifest.json'} names {file.name!r} among the tokenizer's files, which it is not")
    shutil.copyfile(file, to)


@dataclass(frozen=True)
class _Entry:
    """A tensor to write: its Hugging Face name, our path, its layer and expert there, its bytes, whether of zeros."""

    name: str
    path: str
    place: tuple[int, ...]
    transposed: bool
    size: int
    zeros: bool = False


def _entries(
    names: Names, tensors: Mapping[str, Any], layers: Sequence[Assembled], traits: Traits | None
) -> Iterator[_Entry]:
    import jax.numpy as jnp

    for path, tensor in tensors.items():
        weight = names.weight(path)
        size = math.prod(weight.shape(tuple(tensor["shape"]))) * jnp.dtype(tensor["dtype"]).itemsize
        if not weight.stacked:
            yield _Entry(weight.name, path, (), weight.transposed, size)
            continue
        for new, layer in enumerate(layers):
            old, zeros = source_of(path, layer, traits)
            for place, name in weight.parts(new, tuple(tensor["shape"][1:])):
                yield _Entry(name, path, (old, *place), weight.transposed, size, zeros)


def _shards(entries: Iterable[_Entry], limit: int) -> list[list[_Entry]]:
    shards: list[list[_Entry]] = [[]]
    for entry in entries:
        if shards[-1] and sum(other.size for other in shards[-1]) + entry.size > limit:
            shards.append([])
        shards[-1].append(entry)
    return shards


def rearranged(original: dict[str, Any], config: Config, dtype: str) -> dict[str, Any]:
    """The source's config with the layers that the plan runs, each of its own kind, and the dtype of the weights."""
    key, layers = "dtype" if "dtype" in original else "torch_dtype", config.num_hidden_layers
    kinds = getattr(config, "layer_types", None)
    own: dict[str, Any] = {"layer_types": list(kinds)} if kinds else {}
    if not kinds and original.get("layer_types"):  # all alike, where the family has one kind
        own["layer_types"] = original["layer_types"][:1] * layers
    if original.get("tie_word_embeddings") and not config.tie_word_embeddings:
        own["tie_word_embeddings"] = False  # the head that was there differed from the embedding
    return {**original, family_of(config.model_type).num_layers: layers, **own, key: dtype}


def _is_huggingface(folder: Path) -> bool:
    return (folder / "config.json").is_file() and any(folder.glob("model*.safetensors"))


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n")

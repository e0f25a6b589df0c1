"""Conversion of a foreign checkpoint into a store, a part of a tensor at a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np

from convert.adapters import parted, read_adapter
from convert.gguf_tokenizer import splits_as_gpt2
from convert.heads import remarks, untied, without_head
from convert.merging import merged
from convert.names import Selection, select
from convert.sources import Source, resolve
from convert.tensors import Tensor, abbreviated
from jaxpaint.base.errors import UserError
from jaxpaint.base.folders import require_new
from jaxpaint.base.progress import say
from jaxpaint.models import checkpoint, family_of, from_huggingface
from jaxpaint.models.checkpoint import Progress
from jaxpaint.models.family import Config, Names

DTYPES = ("bfloat16", "float16", "float32")


def convert(
    source: str | Path,
    destination: str | Path,
    *,
    dtype: str | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Converts a checkpoint into a store and returns the store's path.

    Args:
        source: a Hugging Face folder, a hub id, a folder of Meta's original files, a GGUF file (of several parts the
            first), whose quantised tensors become float32, or an adapter's folder, which names one of these.
        destination: the new store; nothing is there until all of it is.
        dtype: `bfloat16`, `float16` or `float32`; None keeps the checkpoint's (the widest, where they are mixed).
        revision: branch, tag or commit of a hub id.
        adapter: the folder of a LoRA adapter of peft, merged into the weights (`convert.merging`).
        overwrite: replace a store that is there already.
        progress: called with what is being done, bytes done and bytes in all.

    Raises:
        UserError: no such checkpoint, one that does not match its config, or a destination that cannot be written.
    """
    require_new(destination, overwrite=overwrite, replaces=checkpoint.is_store)  # before anything is downloaded
    source, revision, adapter = parted(source, revision, adapter)
    low_rank = None if adapter is None else read_adapter(adapter)
    found = resolve(source, revision)
    read = architecture(found)
    config, tensors, names = read.config, read.tensors, family_of(read.config.model_type).names
    if low_rank:
        if doubt := low_rank.doubt(source):
            say(doubt)
        tensors = merged(tensors, low_rank, [names.weight(path) for path in _parameter_shapes(config)], names)
    chosen, texts = _choose_dtype(dtype, tensors), found.tokenizer_texts()

    def fill(path: str, layer: int | None, out: np.ndarray) -> None:
        weight = names.weight(path)
        if layer is not None and layer < weight.first:
            out[...] = 0
        for place, name in weight.parts(layer, out.shape):
            copy(tensors[name], out[place], weight.transposed)

    if progress:
        for line in remarks(found, config, read.selected):
            progress(line, 0, 0)
    if progress and not (found.tokenizer_files or texts):
        lacking, given = (
            ("image processor", "pixel values") if config.capabilities.images else ("tokenizer", "token ids")
        )
        progress(f"{found.name} has no {lacking}: the store will take {given} only", 0, 0)
    if progress and splits_as_gpt2(found.tokenizer_split, texts):
        progress(
            f"{found.name} splits texts as {str(found.tokenizer_split)[:40]!r}, which transformers does not know of "
            "such files: it splits them as GPT-2 does, so numbers may be other tokens than the original's",
            0,
            0,
        )
    return checkpoint.save(
        destination,
        config,
        fill,
        dtype=chosen,
        huggingface_config=found.config,
        tokenizer_files=found.tokenizer_files,
        tokenizer_texts=texts,
        generation_config=found.generation_config,
        source=found.name,
        revision=found.revision,
        quantisation=found.quantisation,
        adapter=low_rank.record() if low_rank else None,
        overwrite=overwrite,
        progress=progress,
    )


@dataclass(frozen=True)
class Architecture:
    """What a checkpoint is: its configuration, and the tensors that it implies by their Hugging Face names."""

    config: Config
    tensors: Mapping[str, Tensor]
    selected: Selection


def architecture(found: Source) -> Architecture:
    """Of a checkpoint, with what its tensors say beside its config. Raises UserError where the two do not match."""
    config = from_huggingface(found.config)
    names = family_of(config.model_type).names
    selected = select(found.tensors, names, found.name)
    tensors, config = untied(selected.weights, names.adapt(config, selected.weights), names)
    config = without_head(config, tensors, names, selected, found.config)
    _require_match(found.name, tensors, config, names)
    return Architecture(config, tensors, selected)


def copy(tensor: Tensor, out: np.ndarray, transposed: bool) -> None:
    """Reads a tensor into `out` (its shape, or its transpose's), cast to the dtype of `out`."""
    if len(tensor.shape) > 2 and transposed:  # of a convolution, all of whose axes turn around: it is small
        out[...] = tensor.part(0, 0, tensor.shape[0]).T
        return
    # Along the first axis of `out`, so that each of its pages is written once.
    for place, block in tensor.blocks(axis=1 if transposed else 0):
        out[place] = block.T if transposed else block


def _choose_dtype(asked: str | None, tensors: Mapping[str, Tensor]) -> str:
    import jax.numpy as jnp

    dtype = asked or reduce(jnp.promote_types, {tensor.kept or tensor.dtype for tensor in tensors.values()}).name
    if dtype not in DTYPES:
        raise UserError(f"dtype {dtype} is not one of {', '.join(DTYPES)}; say which with --dtype")
    return dtype


def _require_match(source: str, found: Mapping[str, Tensor], config: Config, names: Names) -> None:
    """Raises UserError, with both sides, unless the checkpoint has just the tensors that its config implies."""
    expected = names.expected(_parameter_shapes(config), config.num_hidden_layers)
    missing = [f"{name} {list(shape)}" for name, shape in expected.items() if name not in found]
    unexpected = [f"{name} {list(tensor.shape)}" for name, tensor in found.items() if name not in expected]
    misshapen = [
        f"{name} is {list(found[name].shape)} in {found[name].file} and {list(shape)} by the config"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    faults = [
        f"{len(items)} {what}: {abbreviated(items)}"
        for what, items in (
            ("that the config implies and the checkpoint lacks", missing),
            ("that the checkpoint has and the config does not imply", unexpected),
            ("misshapen", misshapen),
        )
        if items
    ]
    if faults:
        raise UserError(f"the tensors of {source} do not match its config: " + " | ".join(faults))


def _parameter_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    import jax.numpy as jnp

    from jaxpaint.models import abstract_parameters

    return {path: tuple(value.shape) for path, value in abstract_parameters(config, jnp.float32).items()}

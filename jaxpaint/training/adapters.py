"""Low-rank adapters on the kernels of a decoder's layers (LoRA, arXiv 2106.09685, section 4.1), by Flax's `nnx.LoRA`.

A kernel W stays as it is; beside it x A B is added, A [in, rank] drawn and B [rank, out] zero at first, so that nothing
changes before the first step. The paper's factor alpha / rank is 1: with Adam it does what a learning rate does.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from jaxpaint.base.errors import UserError
from jaxpaint.models import abstract_parameters, new_model
from jaxpaint.models.family import Config

Parameters: TypeAlias = dict[str, Any]
Flat: TypeAlias = dict[str, Any]
"""Parameters by path (`blocks/mlp/up_proj/kernel`); of layers with a leading axis of these."""


def adapted_model(config: Config, rank: int, dtype: Any) -> Any:
    """The model with shapes in place of arrays (float32), its layers' kernels with adapters computed in `dtype`."""

    def make() -> Any:
        model = new_model(config, jnp.float32, "matmul")
        rngs = nnx.Rngs(0)
        for _, module in list(nnx.iter_modules(model.blocks)):
            for name, part in list(vars(module).items()):
                if isinstance(part, nnx.Linear):
                    sizes = part.in_features, rank, part.out_features
                    setattr(module, name, nnx.LoRA(*sizes, base_module=part, dtype=dtype, rngs=rngs))
        return model

    return nnx.eval_shape(make)


def first_adapters(config: Config, rank: int, seed: int) -> Parameters:
    """The adapters before training, float32: `lora_a` drawn as `nnx.LoRA` draws it, `lora_b` zero."""
    kernels = _kernels(config)
    draw = jax.nn.initializers.he_uniform(in_axis=-2, out_axis=-1, batch_axis=0)
    found: Flat = {}
    for (module, (layers, features, out)), key in zip(
        kernels.items(), jax.random.split(jax.random.key(seed), len(kernels)), strict=True
    ):
        found[f"{module}/lora_a"] = draw(key, (layers, features, rank), jnp.float32)
        found[f"{module}/lora_b"] = jnp.zeros((layers, rank, out), jnp.float32)
    return unflatten_dict(found, sep="/")


def beside_kernels(parameters: Parameters, adapters: Parameters) -> Parameters:
    """What `adapted_model` takes: a model's parameters, with adapters beside its kernels."""
    own: Flat = flatten_dict(adapters, sep="/")
    adapted = {path.rpartition("/")[0] for path in own}

    def place(path: str) -> str:
        module, _, name = path.rpartition("/")
        return f"{module}/base_module/{name}" if module in adapted else path

    return unflatten_dict({**{place(path): leaf for path, leaf in _flat(parameters).items()}, **own}, sep="/")


def merged_kernels(parameters: Parameters, adapters: Parameters) -> Flat:
    """The kernels with what the adapters add, W + A B, float32 on the host, by path; no others."""
    own, found = _flat(adapters), {}
    for module in sorted({path.rpartition("/")[0] for path in own}):
        kernel = np.asarray(_flat(parameters)[f"{module}/kernel"], np.float32)
        added = np.matmul(np.asarray(own[f"{module}/lora_a"]), np.asarray(own[f"{module}/lora_b"]))
        found[f"{module}/kernel"] = kernel + added
    return found


def _kernels(config: Config) -> dict[str, tuple[int, ...]]:
    """The layers' modules that have one, and its shape. Raises UserError for a mixture of experts."""
    shapes = {path: leaf.shape for path, leaf in abstract_parameters(config, jnp.float32).items()}
    chosen = sorted(path for path in shapes if path.startswith("blocks/") and path.endswith("/kernel"))
    if any(len(shapes[path]) > 3 for path in chosen):
        raise UserError(f"adapters of a {config.model_type} model's experts are not handled; train all weights: rank 0")
    return {path.removesuffix("/kernel"): shapes[path] for path in chosen}


def _flat(parameters: Parameters) -> dict[str, Array]:
    flat: dict[str, Array] = flatten_dict(parameters, sep="/")
    return flat

"""Models of real shapes and random weights, here and in transformers on torch: what speed needs and no download."""

from __future__ import annotations

import os

from jaxpaint.bench.shapes import SHAPES as EVERY_SHAPE

SHAPES = {name: values for name, values in EVERY_SHAPE.items() if values["model_type"] != "bert"}  # those that write


def random_models(shape: str | dict, device: str):
    """`(our model, transformers' model)` of a shape, by name or as a `config.json` has it, with weights of their own.

    On "cpu" they are in float32, on "gpu" in bfloat16.
    Call it before anything starts JAX: both hold a model on the same device.
    """
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from jaxpaint.engine.random_weights import random_model
    from jaxpaint.models import from_huggingface

    if jax.default_backend() != device:
        raise SystemExit(f"--device {device}: JAX runs on {jax.default_backend()} here")
    config = AutoConfig.for_model(**(SHAPES[shape] if isinstance(shape, str) else shape), eos_token_id=None)
    torch_device, dtype = ("cuda", torch.bfloat16) if device == "gpu" else ("cpu", torch.float32)
    with torch.device(torch_device):
        theirs = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa").eval()
    return random_model(from_huggingface(config.to_dict())), theirs

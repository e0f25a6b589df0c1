"""Tiny random ViTs on torch, as checkpoints with an image processor, and folders of images."""

from __future__ import annotations

from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image

from jaxpaint.plans.plan import Plan
from tests.helpers.decoders import randomise
from tests.helpers.encoders import Variation, torch_node

NUM_LAYERS, SIZE, CLASSES = 5, (16, 24), ("cat", "dog", "fox")
VIT: dict[str, Any] = {
    **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": NUM_LAYERS, "num_attention_heads": 4},
    **{"image_size": list(SIZE), "patch_size": [4, 8], "layer_norm_eps": 1e-2},  # large, so that it matters
    **{"id2label": dict(enumerate(CLASSES)), "label2id": {name: number for number, name in enumerate(CLASSES)}},
}
VARIATION = Variation(
    {"model_type": "vit", **VIT},
    positions=13,
    attention=lambda layer, x, *shared, **named: x + layer.attention(layer.layernorm_before(x), *shared, **named)[0],
    mlp=lambda layer, x: x + layer.mlp(layer.layernorm_after(x)),
)


@cache
def torch_vit(kind: str = "ForImageClassification") -> Any:
    """transformers' model of a kind: `Model` for the encoder with a pooler."""
    network = getattr(transformers, f"ViT{kind}")(transformers.ViTConfig(**VIT, attn_implementation="eager")).eval()
    randomise(network)
    return network


@contextmanager
def planned(network: Any, plan: Plan | None) -> Any:
    """transformers' model with a plan in place of its layers."""
    base = network.base_model
    layers = base.layers
    try:
        if plan is not None:
            base.layers = torch.nn.ModuleList([_Alone(torch_node(VARIATION, plan.root, layers))])
        yield network
    finally:
        base.layers = layers


class _Alone(torch.nn.Module):
    """What takes the place of all layers gives a state alone."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Any, *shared: Any, **named: Any) -> Any:
        found = self.module(x, *shared, **named)
        return found[0] if isinstance(found, tuple) else found


def torch_logits(pixels: np.ndarray, plan: Plan | None = None) -> np.ndarray:
    with planned(torch_vit(), plan) as network, torch.no_grad():
        return network(torch.tensor(pixels)).logits.numpy()


def make_vit(folder: Path, kind: str = "ForImageClassification") -> Path:
    """A checkpoint with the processor of its size."""
    torch_vit(kind).save_pretrained(folder)
    torch_processor().save_pretrained(folder)
    return folder


def torch_processor(**settings: Any) -> Any:
    return transformers.ViTImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]}, **settings)


def make_images(folder: Path, count: int, seed: int, classes: tuple[str, ...] = CLASSES) -> None:
    """Pictures of one size in a folder for each class, whose colours differ by class."""
    random = np.random.default_rng(seed)
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = random.integers(0, 160, (20, 31, 3)) + 90 * (np.arange(3) == number)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{index:02d}.png")

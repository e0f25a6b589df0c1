"""The weight names of a family: a checkpoint's on one side, ours on the other."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any


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


@dataclass(frozen=True)
class Names:
    """A family's names.

    `weight` gives the entry of our path; `buffers` are endings of names that hold no weights of ours. `canonical` makes
    one spelling of several, and `adapt` gives the configuration of a checkpoint with these (canonical) names.
    """

    weight: Callable[[str], Weight]
    embedding: str
    head: str
    buffers: tuple[str, ...]
    canonical: Callable[[str], str] = str
    adapt: Callable[[Any, Collection[str]], Any] = lambda config, names: config

    def expected(self, shapes: Mapping[str, tuple[int, ...]], num_layers: int) -> dict[str, tuple[int, ...]]:
        """Every Hugging Face name that a checkpoint with our parameters' shapes has, with its shape."""
        found = {}
        for path, shape in shapes.items():
            entry = self.weight(path)
            for layer in range(num_layers if entry.stacked else 1):
                found[entry.of_layer(layer)] = entry.shape(shape)
        return found

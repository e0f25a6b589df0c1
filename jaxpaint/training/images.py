"""Files of images as rows to score or train on, read when they are needed: all of them are more than memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxpaint.engine.patches import image_inputs
from jaxpaint.engine.rows import Inputs, TextRows
from jaxpaint.models.image_processor import ImageProcessor


@dataclass(frozen=True, eq=False)
class Images:
    """Images for a model of this configuration, as its processor reads them. They are `InRows`."""

    files: tuple[Path, ...]
    processor: ImageProcessor
    config: Any

    def __len__(self) -> int:
        return len(self.files)

    @property
    def lengths(self) -> Int[np.ndarray, " examples"]:
        """All alike: the patches, and [CLS]."""
        return np.full(len(self), self.config.max_position_embeddings)

    def rows(self, examples: np.ndarray, rows: int) -> Inputs:
        """Some images in the first of so many rows; the others are black. Raises UserError for one that is none."""
        pixels = np.zeros((rows, self.config.num_channels, *self.config.image_size), np.float32)
        for row, example in enumerate(examples):
            pixels[row] = self.processor(self.files[example])
        return image_inputs(self.config, pixels)

    def batches(self, budget: int, shards: int, shortest: int) -> Iterator[tuple[TextRows, Inputs]]:
        """All images; batches have one shape, and a multiple of `shards` rows."""
        most = max(1, budget // self.config.max_position_embeddings // shards) * shards
        count = -(-len(self) // most)
        height = -(-len(self) // count // shards) * shards
        for start in range(0, len(self), height):
            members = range(start, min(start + height, len(self)))
            inputs = self.rows(np.array(members), height)
            yield TextRows(inputs.tokens, inputs.lengths, tuple(members)), inputs

"""Images as a model of them reads them: rows of patches."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float

from jaxpaint.base.errors import UserError
from jaxpaint.engine.rows import Inputs


def image_inputs(config: Any, pixel_values: ArrayLike) -> Inputs:
    """Rows of images [B, channels, height, width], as a checkpoint's processor gives them.

    Raises UserError for images of another size or number of channels than the model's.
    """
    try:
        images = np.asarray(pixel_values)
    except ValueError:  # images of unequal sizes
        images = np.empty(0)
    expected = (config.num_channels, *config.image_size)
    if images.ndim != 4 or images.shape[1:] != expected or not images.size or not _are_numbers(images):
        shape = ", ".join(map(str, expected))
        raise UserError(
            f"pixel values must be floats [batch, {shape}] for this model, not {images.dtype} of shape "
            f"{images.shape}; its image processor gives them (positions are not interpolated for other sizes)"
        )
    rows = patches(images.astype(np.float32, copy=False), config.patch_size)
    return Inputs(rows, np.full(len(rows), rows.shape[1], np.int32), None)


def patches(
    images: Float[np.ndarray, "B channels height width"], patch_size: tuple[int, int]
) -> Float[np.ndarray, "B S pixels"]:
    """Before each image's patches, from the upper left on, row by row, zeros in the place of [CLS].

    A patch is its columns from the left, of each the pixels from above, of each the channels.
    """
    (high, wide), (batch, channels, height, width) = patch_size, images.shape
    grid = images.reshape(batch, channels, height // high, high, width // wide, wide)
    rows = grid.transpose(0, 2, 4, 5, 3, 1).reshape(batch, -1, wide * high * channels)
    return np.concatenate([np.zeros_like(rows[:, :1]), rows], axis=1)


def _are_numbers(images: np.ndarray) -> bool:
    return np.issubdtype(images.dtype, np.floating)

"""How a checkpoint's images are read: as transformers' `ViTImageProcessor` does with Pillow and NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxpaint.base.documents import read_json, shown, shown_items
from jaxpaint.base.errors import UserError, first_line

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

FILE = "preprocessor_config.json"
TYPES = ("ViTImageProcessor", "ViTImageProcessorFast", "ViTImageProcessorPil", "ViTFeatureExtractor")
# What Pillow may open: others' readers are many, and one of them starts another program.
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
MODES = {1: "L", 3: "RGB"}  # Pillow's, by the number of channels
WIDE = ("I", "F")  # its modes of 16 and 32 bits
FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # as Pillow numbers them
HANDLED = {
    *("do_resize", "size", "resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"),
    *("image_processor_type", "feature_extractor_type", "processor_class", "auto_map"),
    *("do_convert_rgb", "input_data_format", "data_format", "return_tensors", "_valid_processor_keys"),
    *("crop_size", "pad_size", "default_to_square", "disable_grouping", "device"),  # not read unless others are on
}


@dataclass(frozen=True)
class ImageProcessor:
    """Files of images as pixel values. Sizes are (height, width); None is what is not done.

    Images are turned as their EXIF data say, and are converted to the model's channels first.
    """

    image_size: tuple[int, int]
    num_channels: int
    size: tuple[int, int] | None
    resample: int
    rescale_factor: float | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def __call__(self, image: str | Path | Any) -> Float[np.ndarray, "channels height width"]:
        """Of a file, or an image of Pillow's.

        Raises UserError for what cannot be read, has more than 8 bits a channel, or has not the model's size.
        """
        import numpy as np

        named = "an image"
        if isinstance(image, str | Path):
            image, named = _opened(image), str(image)
        if image.mode.startswith(WIDE):
            raise UserError(
                f"{named} has grey values of more than 8 bits (Pillow's mode {image.mode}), which would all be cut to "
                "255; save it with 8 bits"
            )
        image = image.convert(MODES[self.num_channels])
        if self.size is not None:
            height, width = self.size
            image = image.resize((width, height), resample=self.resample)
        if (image.height, image.width) != self.image_size:
            raise UserError(
                f"an image of {image.height} x {image.width} pixels is none of this model, which sees "
                f"{' x '.join(map(str, self.image_size))}, and its {FILE} does not resize"
            )
        pixels = np.asarray(image)
        # In float64 and then float32, as transformers' `rescale`.
        factor = 1.0 if self.rescale_factor is None else self.rescale_factor
        scaled: np.ndarray = (pixels.astype(np.float64) * factor).astype(np.float32)
        if self.mean is not None:
            scaled = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return np.moveaxis(scaled.reshape(*self.image_size, -1), -1, 0)


def load_image_processor(store: Path, config: Any) -> ImageProcessor:
    """That of a converted store. Raises UserError where there is none, or one that is not handled."""
    from jaxpaint.models.manifest import read_manifest, require_same_files

    manifest = read_manifest(store)
    require_same_files(store, manifest)
    if FILE not in manifest["tokenizer"]:
        raise UserError(
            f"the store {store} has no image processor, because {manifest['source']} had no {FILE}; add it there and "
            "convert again, or pass pixel values"
        )
    file = store / "tokenizer" / FILE
    return read_image_processor(read_json(file, dict[str, Any]), config, str(file))


def read_image_processor(raw: Mapping[str, Any], config: Any, where: str = FILE) -> ImageProcessor:
    """From the preprocessor_config.json of a model's checkpoint; `where` names it in errors.

    Raises UserError for settings that are not handled, or images that are not of the model's size.
    """
    kind = raw.get("image_processor_type") or raw.get("feature_extractor_type") or TYPES[0]
    if kind not in TYPES:
        raise UserError(f"{where}: image_processor_type={shown(kind)} is not handled; known: {', '.join(TYPES)}")
    strange = {name: value for name, value in raw.items() if name not in HANDLED and value}
    if strange:
        raise UserError(
            f"{where} sets {shown_items(sorted(strange.items()))}, which jaxpaint does not handle and which may change "
            "the result; remove it only if you know that it does not"
        )
    if config.num_channels not in MODES:
        raise UserError(f"num_channels={config.num_channels} is not handled for files of images; known: 1 and 3")
    size = _size(raw, where) if _switch(raw, "do_resize", where) else None
    if size is not None and size != config.image_size:
        raise UserError(
            f"{where} makes images of {' x '.join(map(str, size))} pixels, and the model sees "
            f"{' x '.join(map(str, config.image_size))}: positions are not interpolated here; set size to the model's"
        )
    mean = std = None
    if _switch(raw, "do_normalize", where):
        mean, std = (_each(raw, name, config.num_channels, where) for name in ("image_mean", "image_std"))
        if not all(std):
            raise UserError(f"{where}: image_std={shown(raw['image_std'])} divides by 0")
    resample = 2 if raw.get("resample") is None else raw["resample"]
    if isinstance(resample, bool) or resample not in range(len(FILTERS)):
        named = ", ".join(f"{number} {name}" for number, name in enumerate(FILTERS))
        raise UserError(f"{where}: resample={shown(resample)} is not handled; known: {named}")
    factor = _number(raw, "rescale_factor", 1 / 255, where) if _switch(raw, "do_rescale", where) else None
    return ImageProcessor(config.image_size, config.num_channels, size, int(resample), factor, mean, std)


def _opened(path: str | Path) -> Any:
    from PIL import Image, ImageOps

    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return ImageOps.exif_transpose(image)
    except FileNotFoundError as error:
        raise UserError(f"no file {path}") from error
    except Exception as error:  # Pillow's readers raise a dozen unrelated types for what is damaged
        raise UserError(
            f"{path} cannot be read as an image ({first_line(error)[:200]}); it takes {', '.join(FORMATS)}"
        ) from error


def _switch(raw: Mapping[str, Any], name: str, where: str) -> bool:
    value = True if raw.get(name) is None else raw[name]
    if not isinstance(value, bool):
        raise UserError(f"{where}: {name}={shown(value)} is neither true nor false")
    return value


def _size(raw: Mapping[str, Any], where: str) -> tuple[int, int]:
    """One number is both height and width."""
    size = 224 if raw.get("size") is None else raw["size"]
    height, width = size, size
    if isinstance(size, Mapping) and size.keys() == {"height", "width"}:
        height, width = size["height"], size["width"]
    if any(isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= 10**5 for side in (height, width)):
        raise UserError(f"{where}: size={shown(size)} is not handled; give a height and a width")
    return height, width


def _number(values: Mapping[str, Any], name: str, silent: float, where: str) -> float:
    value = silent if values.get(name) is None else values[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{where}: {name}={shown(value)} is not a number")
    return float(value)


def _each(raw: Mapping[str, Any], name: str, channels: int, where: str) -> tuple[float, ...]:
    """A number for each channel; one is that of all."""
    value = 0.5 if raw.get(name) is None else raw[name]
    each = value if isinstance(value, list) else [value] * channels
    if len(each) != channels:
        raise UserError(f"{where}: {name}={shown(value)} is not a number for each of {channels} channels")
    return tuple(_number({name: one}, name, 0.5, where) for one in each)

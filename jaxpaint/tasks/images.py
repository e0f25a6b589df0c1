"""Folders of images, a folder for each class: FOLDER/SPLIT/CLASS/*.png, as `datasets` reads an `imagefolder`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from jaxtyping import Int

from jaxpaint.base.errors import UserError
from jaxpaint.base.shown import visible_name

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
SHOWN = 10  # classes that an error names


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Files, and for each the number of its class among `classes`."""

    files: tuple[Path, ...]
    labels: Int[np.ndarray, " images"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


def read_images(folder: Path, split: str, limit: int | None = None) -> LabelledImages:
    """The images of a split, one of each class in turn, or the first `limit` of these; classes by their names.

    No file is opened. Raises UserError where there is no such folder, or no image in it.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {folder}; give one with images as {folder}/{split}/CLASS/*.png")
    where = folder / split
    if not where.is_dir():
        there = ", ".join(visible_name(each.name) for each in _folders(folder)[:SHOWN]) or "no folder"
        raise UserError(f"{folder} has no folder {split} of images ({split}/CLASS/*.png); it has {there}")
    by_class = {each.name: _images(each) for each in _folders(where)}
    if not any(by_class.values()):
        raise UserError(f"{where} has no images; put those of each class into a folder, {split}/CLASS/*.png")
    if lacking := [name for name, files in by_class.items() if not files]:
        raise UserError(f"{where / lacking[0]} has no images ({', '.join(ENDINGS)}); add some, or remove the folder")
    each = [[(file, label) for file in files] for label, files in enumerate(by_class.values())]
    in_turn = [found for found in chain.from_iterable(zip_longest(*each)) if found is not None][:limit]
    files, labels = zip(*in_turn, strict=True)
    return LabelledImages(files, np.array(labels, np.int32), tuple(by_class))


def labels_among(images: LabelledImages, known: Sequence[str], whose: str) -> Int[np.ndarray, " images"]:
    """The images' labels as numbers among the classes that a classifier knows; `whose` names that in errors.

    Raises UserError for a class that it does not know, or knows twice.
    """
    numbers = []
    for name in images.classes:
        places = [number for number, each in enumerate(known) if each == name]
        if not places:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"; did you mean {visible_name(near[0])}?" if near else ""
            more = f", … and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
            listed = ", ".join(map(visible_name, known[:SHOWN]))
            raise UserError(f"{whose} does not know the class {visible_name(name)}{hint} (it knows {listed}{more})")
        if len(places) > 1:
            raise UserError(f"{whose} has {len(places)} classes called {visible_name(name)}; leave that folder out")
        numbers += places
    return np.array(numbers, np.int32)[images.labels]


def _folders(folder: Path) -> list[Path]:
    return sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    """Without hidden ones: other systems put a `._cat.png` beside each cat.png."""
    found = (each for each in folder.rglob("*") if each.suffix.lower() in ENDINGS and each.is_file())
    return sorted(each for each in found if not any(part.startswith(".") for part in each.relative_to(folder).parts))

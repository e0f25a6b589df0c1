"""GGUF files, those in parts included: what they say and where their tensors lie, with no tensor read."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaint.base.documents import require_regular, shown
from jaxpaint.base.errors import UserError, first_line

if TYPE_CHECKING:
    from gguf import GGUFReader, ReaderField

MAGIC = b"GGUF"
MOST_ENTRIES = 4_000_000  # of all arrays; a vocabulary of a million has four
MANY_ENTRIES = 10_000  # more than any model has layers
SPLITS = ("split.no", "split.count", "split.tensors.count")
# What the package's reader raises of bytes that are no GGUF, which it does not mind itself.
_DAMAGE = (ValueError, KeyError, IndexError, OverflowError, TypeError, RecursionError)


@dataclass(frozen=True)
class GgufTensor:
    """Where a tensor lies. `shape` is NumPy's order; `header` its dimensions and type as the file has them."""

    shape: tuple[int, ...]
    header: bytes
    type: int
    size: int
    file: Path
    offset: int


@dataclass(frozen=True)
class GgufFile:
    """A model: its keys' values as the first file has them, byte for byte, and the tensors of all its files.

    An array of more than `MANY_ENTRIES`, as vocabularies are, is there as bytes alone: its entries cannot be asked for.
    """

    files: tuple[Path, ...]
    version: bytes
    is_swapped: bool
    alignment: int
    fields: Mapping[str, ReaderField]
    tensors: Mapping[str, GgufTensor]

    @property
    def file(self) -> Path:
        return self.files[0]

    @property
    def architecture(self) -> str:
        """Raises UserError where the file names none."""
        found = self.value("general.architecture")
        if not isinstance(found, str) or not found:
            raise UserError(f"{self.file} names no general.architecture; is it a model?")
        return found

    def value(self, key: str) -> Any:
        """A key's number, text or list; None where it has none. Raises UserError for text that is not UTF-8."""
        field = self.fields.get(key)
        try:
            return None if field is None else field.contents()
        except ValueError as error:
            raise UserError(f"{self.file}: {key} is not UTF-8 text") from error

    def text(self, key: str) -> str | None:
        """A key's text. Raises UserError where it has another value."""
        found = self.value(key)
        if found is not None and not isinstance(found, str):
            raise UserError(f"{self.file}: {key} is {shown(found)}; expected a text")
        return found

    def count(self, key: str, default: int | None = None) -> int:
        """A key's whole number. Raises UserError where it has another value, or none and there is no default."""
        found = self.value(key)
        if found is None and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            raise UserError(f"{self.file}: {key} is {shown(found)}; expected a number")
        return found

    def array_length(self, key: str) -> int | None:
        """How many numbers a key has; None where it has one value, or texts."""
        from gguf import GGUFValueType

        types = self.fields[key].types
        is_numbers = len(types) == 2 and types[0] == GGUFValueType.ARRAY and types[1] != GGUFValueType.STRING
        return len(self.fields[key].data) if is_numbers else None


def is_gguf(path: str | Path) -> bool:
    """Whether it is a file that begins as GGUF files do."""
    try:
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def read_gguf(path: str | Path) -> GgufFile:
    """Reads what a file says, and the files beside it where it is the first part of several.

    Raises:
        UserError: no such file, one that is cut short or damaged, a part that is not the first, or parts that do not
            belong together; or the `gguf` package is missing.
    """
    require_package()
    path = Path(path)
    first = _read(path)
    count = first.count("split.count", 1)
    if count <= 1:
        return first
    name = re.fullmatch(r"(.+)-(\d{5})-of-(\d{5})(\.gguf)", path.name)
    if name is None or int(name[3]) != count:
        raise UserError(f"{path} is one of {count} parts, but not named NAME-00001-of-{count:05d}.gguf as such are")
    names = [f"{name[1]}-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    if first.count("split.no") != 0:
        raise UserError(f"{path} is part {first.count('split.no') + 1} of {count}; give the first, {names[0]}")
    if absent := [other for other in names if not path.with_name(other).is_file()]:
        raise UserError(f"{path} is the first of {count} parts, and {', '.join(absent[:3])} is not beside it")
    parts = [first, *(_read(path.with_name(other)) for other in names[1:])]
    tensors: dict[str, GgufTensor] = {}
    for number, part in enumerate(parts):
        if (part.count("split.no"), part.count("split.count")) != (number, count):
            raise UserError(f"{part.file} is not part {number + 1} of {count} by what it says of itself")
        if twice := sorted(tensors.keys() & part.tensors):
            raise UserError(f"{part.file} has {twice[0]}, which a part before it has too")
        tensors |= part.tensors
    if len(tensors) != (expected := first.count("split.tensors.count", len(tensors))):
        raise UserError(f"the {count} parts of {path} have {len(tensors)} tensors; the first says {expected}")
    return GgufFile(
        tuple(part.file for part in parts), first.version, first.is_swapped, first.alignment, first.fields, tensors
    )


def require_package() -> None:
    """Raises UserError where the `gguf` package is missing."""
    if find_spec("gguf") is None:
        raise UserError("reading GGUF files needs gguf: pip install 'jaxpaint[gguf]'")


def _read(path: Path) -> GgufFile:
    require_regular(path)
    if not is_gguf(path):
        raise UserError(f"{path} is not a GGUF file: it does not begin with {MAGIC.decode()}")
    try:
        with np.errstate(all="ignore"):
            reader = _careful_reader()(path)
            tensors = dict(_tensors(reader, path))
    except _DAMAGE as error:
        if unknown := re.search(r"(\d+)\W* is not a valid GGMLQuantizationType", str(error)):
            raise UserError(
                f"{path} has tensors of the type {unknown[1]}, which this version of gguf does not know; update it, or "
                "take a file of another quantisation"
            ) from error
        raise UserError(f"{path} is cut short or damaged, so download it again: {first_line(error)[:120]}") from error
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    version = reader.fields["GGUF.version"].parts[0].tobytes()
    return GgufFile((path,), version, reader.byte_order == "S", int(reader.alignment), fields, tensors)


@cache
def _careful_reader() -> type[GGUFReader]:
    """The package's reader; its own takes what lies behind the end for nothing, and goes on for as long as it is told.

    Of a vocabulary of 262,144 that one makes 2.6 million objects, in 30 s and 700 MB. A class made here, since the
    package may be missing.
    """
    from gguf import GGUFEndian, GGUFReader, GGUFValueType

    class Careful(GGUFReader):
        entries = 0

        def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
            if offset + np.dtype(dtype).itemsize * int(count) > len(self.data):
                raise ValueError(f"it ends at byte {len(self.data)}, within a value")
            return super()._get(offset, dtype, count, override_order)

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
            if raw_type != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, count = int(self._get(orig_offs, np.uint32)[0]), int(self._get(orig_offs + 4, np.uint64)[0])
            self.entries += count
            if self.entries > MOST_ENTRIES:
                raise ValueError(f"its keys have more than {MOST_ENTRIES:,} values")
            number = self.gguf_scalar_to_np.get(GGUFValueType(kind))
            if count <= MANY_ENTRIES or (number is None and kind != GGUFValueType.STRING):
                return super()._get_field_parts(orig_offs, raw_type)
            start = orig_offs + 12
            end = self._after_texts(start, count) if number is None else start + count * np.dtype(number).itemsize
            return (
                end - orig_offs,
                [self._get(orig_offs, np.uint8, end - orig_offs)],
                [],
                [GGUFValueType.ARRAY, GGUFValueType(kind)],
            )

        def _after_texts(self, start: int, count: int) -> int:
            """Where so many texts end, each behind its length."""
            read = struct.Struct("<Q" if self.endianess == GGUFEndian.LITTLE else ">Q").unpack_from
            content: Any = memoryview(self.data)  # type: ignore[arg-type]  # a memory map of NumPy
            try:
                for _ in range(count):
                    start += 8 + read(content, start)[0]
            except struct.error as error:
                raise ValueError(f"it ends at byte {len(self.data)}, within a value") from error
            return start

    return Careful


def _tensors(reader: GGUFReader, path: Path) -> Iterator[tuple[str, GgufTensor]]:
    for tensor in reader.tensors:
        header = b"".join(part.tobytes() for part in tensor.field.parts[2:5])
        shape = tuple(int(size) for size in reversed(tensor.shape.tolist()))
        yield (
            tensor.name,
            GgufTensor(shape, header, int(tensor.tensor_type), tensor.data.nbytes, path, tensor.data_offset),
        )

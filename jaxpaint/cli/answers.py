"""What a command answers: words for people, or with --json one document for programs and nothing else.

A command that answers has a type `Answer`, the shape of its document, and calls `give`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from jaxpaint.cli.streams import for_programs


def give(options: argparse.Namespace, document: Mapping[str, Any], words: str | None) -> None:
    """Prints the document where --json asks for it, and else the words (None: they are printed already)."""
    if options.json:
        print(dumped(document), file=options.document_stream, flush=True)
    elif words is not None:
        print(words)


@contextmanager
def document_alone(options: argparse.Namespace) -> Iterator[None]:
    """Within it, with --json, the document alone goes to standard output, and all else that is printed to standard
    error."""
    if not getattr(options, "json", False):
        yield
        return
    for_programs()
    options.document_stream = sys.stdout
    with redirect_stdout(sys.stderr):
        yield


def dumped(document: Any) -> str:
    """As JSON, which has no NaN or infinity: null stands for them."""
    return json.dumps(plain(document), ensure_ascii=False, allow_nan=False)


def plain(value: Any) -> Any:
    """Of dataclasses, arrays, paths and numbers that JSON does not have, what it has."""
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(name): plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(each) for each in value]
    if hasattr(value, "tolist"):  # of NumPy and JAX
        return plain(value.tolist())
    return str(value) if isinstance(value, Path) or not callable(value) else value.__name__

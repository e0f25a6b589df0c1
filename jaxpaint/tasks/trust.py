"""Task files are data, not code: templates run in Jinja's sandbox, and a user's own files bring no Python unless asked.

The tasks that come with lm-eval and with this package are trusted as the packages are. A file of the user's own may
come from anywhere; three things in it would run code that it names: `!function` (and classes of tasks), templates, and
metrics that Hugging Face's `evaluate` would fetch and run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn
from unittest import mock

from jaxpaint.base.bundled import TASKS
from jaxpaint.base.errors import UserError

HOW = "load it with --trust-tasks (trust=True in Python) if you know its code"


@contextlib.contextmanager
def sandboxed_templates() -> Iterator[None]:
    """lm-eval's templates, which it renders without a sandbox, in Jinja's, where they reach no internals of Python."""
    from lm_eval import utils

    with mock.patch.object(utils, "env", _sandbox()):
        yield


@functools.cache
def _sandbox() -> Any:
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    own = utils.env
    sandbox = SandboxedEnvironment(
        loader=own.loader, undefined=own.undefined, keep_trailing_newline=own.keep_trailing_newline
    )
    sandbox.filters.update(own.filters)
    return sandbox


@contextlib.contextmanager
def without_code_of_users(*, trust: bool, own_files: bool) -> Iterator[None]:
    """While tasks load, code that a user's own task file names raises UserError, unless they `trust` it.

    `own_files` says whether there are any such files.
    """
    if trust or not own_files:
        yield
        return
    import evaluate
    from lm_eval.tasks import _yaml_loader

    load_function = _yaml_loader._import_func_in_yml

    def of_packages(name: str, folder: Path) -> Any:
        if not _in_packages(folder):
            raise UserError(f"a task file in {folder} names Python code (!function {name}), which was not run; {HOW}")
        return load_function(name, folder)

    refused: list[object] = []

    def refuse_metric(name: object, *_: object, **__: object) -> NoReturn:
        refused.append(name)
        raise UserError("this lm-eval drops")

    with (
        mock.patch.object(_yaml_loader, "_import_func_in_yml", of_packages),
        mock.patch.object(evaluate, "load", refuse_metric),
    ):
        try:
            yield
        finally:
            if refused:
                raise UserError(f"metric {refused[0]!r} is not lm-eval's own, and would be code from elsewhere; {HOW}")


def _in_packages(folder: Path) -> bool:
    import lm_eval.tasks

    packages = (Path(lm_eval.tasks.__path__[0]).resolve(), TASKS.resolve())
    return any(Path(folder).resolve().is_relative_to(package) for package in packages)

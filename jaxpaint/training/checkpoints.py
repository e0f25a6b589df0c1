"""Checkpoints of a training run, from which a killed one goes on, and whose run it is among several processes."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.words import text_digest

State = TypeVar("State")


@dataclass(frozen=True)
class TrainingCheckpoints:
    """The latest state in `folder`, which appears whole or not at all; who made it removes it."""

    folder: Path

    def write(self, step: int, state: Any) -> None:
        """Keeps a tree of arrays in place of those of earlier steps; UserError where the folder cannot be written."""
        import orbax.checkpoint as ocp

        try:
            with self._manager() as manager:
                manager.save(step, args=ocp.args.PyTreeSave(_numbered(state)))
        except OSError as error:
            raise UserError(f"cannot write a checkpoint into {self.folder}: {first_line(error)}") from error

    def latest(self, like: Callable[[], State]) -> State | None:
        """The tree written last, with the structure, shapes and devices of what `like` gives, `ShapeDtypeStruct`s.

        None where there is none; then `like` may not be called. Raises UserError where it cannot be read.
        """
        import orbax.checkpoint as ocp

        if not self.folder.is_dir():
            return None
        abstract = like()
        leaves = _numbered(abstract)
        arguments = ocp.args.PyTreeRestore(leaves, restore_args=ocp.checkpoint_utils.construct_restore_args(leaves))
        try:
            with self._manager() as manager:
                step = manager.latest_step()
                found = None if step is None else manager.restore(step, args=arguments)
        except (OSError, KeyError, ValueError) as error:
            raise UserError(
                f"the checkpoint {self.folder} cannot be read: {first_line(error)[:300]}; remove it to begin again"
            ) from error
        if found is None:
            return None
        return jax.tree.unflatten(jax.tree.structure(abstract), [found[name] for name in leaves])

    @contextmanager
    def _manager(self) -> Iterator[Any]:
        """Orbax's, writing before it returns: the next step takes the state's memory over."""
        import orbax.checkpoint as ocp

        logger = logging.getLogger("absl")
        level = logger.level
        logger.setLevel(logging.CRITICAL)  # its errors are raised as well
        options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
        try:
            with ocp.CheckpointManager(self.folder.resolve(), options=options) as manager:
                yield manager
        finally:
            logger.setLevel(level)


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether a run's folder is this process's alone: of several that work on one store, each run is one's."""
    from filelock import FileLock, Timeout

    # Not beside the folder: a lock file that others may wait for cannot be removed safely.
    lock = Path(tempfile.gettempdir()) / f"jaxpaint-{text_digest(str(folder.resolve()))}.lock"
    try:
        with FileLock(lock, mode=0o666).acquire(blocking=False):
            yield True
    except Timeout:
        yield False


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves by number: what is stored does not depend on the classes that hold them."""
    return {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(tree))}

"""Checkpoints of a training run, from which a killed one goes on, and whose run it is among several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax

from jaxpaint.base import locks
from jaxpaint.base.errors import UserError, first_line
from jaxpaint.base.folders import new_folder, recover
from jaxpaint.base.siblings import clear, put_back, remove
from jaxpaint.models.checkpointer import quiet_orbax

State = TypeVar("State")

LATE_SECONDS = 0.3  # in which writes that were under way when another failed come to an end


@dataclass(frozen=True)
class TrainingCheckpoints:
    """The latest state in `folder`, which appears whole or not at all; who made it removes it."""

    folder: Path

    def write(self, step: int, state: Any) -> None:
        """Keeps a tree of arrays in place of those of earlier steps; UserError where the folder cannot be written."""
        import orbax.checkpoint as ocp

        with new_folder(self.folder, overwrite=True, replaces=Path.is_dir) as folder:
            try:
                with _manager(folder) as manager:
                    manager.save(step, args=ocp.args.PyTreeSave(_numbered(state)))
            except Exception:
                # TensorStore's other writes go on in its threads, and bring back what is removed meanwhile.
                remove(folder)
                time.sleep(LATE_SECONDS)
                raise

    def latest(self, like: Callable[[], State]) -> State | None:
        """The tree written last, with the structure, shapes and devices of what `like` gives, `ShapeDtypeStruct`s.

        None where there is none; then `like` may not be called. Raises UserError where it cannot be read.
        """
        import orbax.checkpoint as ocp

        recover(self.folder)
        if not self.folder.is_dir():
            return None
        abstract = like()
        leaves = _numbered(abstract)
        arguments = ocp.args.PyTreeRestore(leaves, restore_args=ocp.checkpoint_utils.construct_restore_args(leaves))
        try:
            with _manager(self.folder) as manager:
                step = manager.latest_step()
                found = None if step is None else manager.restore(step, args=arguments)
        except Exception as error:  # whatever Orbax makes of files that are not its own
            if "RESOURCE_EXHAUSTED" in str(error):
                raise
            raise UserError(
                f"the checkpoint {self.folder} cannot be read: {first_line(error)[:300]}; remove it to begin again"
            ) from error
        if found is None:
            return None
        return jax.tree.unflatten(jax.tree.structure(abstract), [found[name] for name in leaves])


@contextmanager
def _manager(folder: Path) -> Iterator[Any]:
    """Orbax's, writing before it returns: the next step takes the state's memory over."""
    import orbax.checkpoint as ocp

    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True, enable_async_checkpointing=False)
    with quiet_orbax(), ocp.CheckpointManager(folder.resolve(), options=options) as manager:
        yield manager


@contextmanager
def claimed(folder: Path) -> Iterator[bool]:
    """Whether a run's folder is this process's alone: of several that work on one store, each run is one's.

    Raises UserError where nothing can be written beside it.
    """
    with ExitStack() as stack:
        while True:
            try:
                folder.parent.mkdir(parents=True, exist_ok=True)
                is_ours = stack.enter_context(locks.claimed(folder, "training"))
                break
            except FileNotFoundError:
                continue  # another process tidied the folder around it away
            except OSError as error:
                raise UserError(f"cannot write into {folder.parent}: {error.strerror}") from error
        yield is_ours


def discard(folder: Path) -> None:
    """Removes a folder of checkpoints, and what killed writes left beside it."""
    with suppress(OSError):
        put_back(folder)
    clear(folder)
    remove(folder)


def _numbered(tree: Any) -> dict[str, Any]:
    """The leaves by number: what is stored does not depend on the classes that hold them."""
    return {str(number): leaf for number, leaf in enumerate(jax.tree.leaves(tree))}

"""The cgroups around this process: the container or batch job that it runs in, in both generations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxpaint.base.kernel_files import read_kernel_file

ENDLESS = 1 << 60  # bytes; the first generation says "no limit" with a number beyond any memory


@dataclass(frozen=True)
class Cgroup:
    """A folder of cgroup files; `version` is the generation, 1 or 2."""

    folder: Path
    version: int

    def number(self, name: str) -> int | None:
        """A file's number; None where there is no such file, or no limit."""
        try:
            text = read_kernel_file(self.folder / name).strip()
        except OSError:
            return None
        return int(text) if text.isdigit() and int(text) < ENDLESS else None  # the second generation says "max"

    def numbers(self, name: str) -> dict[str, int]:
        """A file of names and numbers, empty where there is none."""
        try:
            rows = [line.split() for line in read_kernel_file(self.folder / name).splitlines()]
        except OSError:
            return {}
        return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}

    @property
    def memory_limit(self) -> int | None:
        """Bytes, None without a limit."""
        return self.number("memory.max" if self.version == 2 else "memory.limit_in_bytes")


def memory_cgroups(own: Path, root: Path) -> Iterator[Cgroup]:
    """The process's own, which the file `own` (`/proc/self/cgroup`) names, and all around it up to `root`."""
    try:
        lines = read_kernel_file(own).splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            top, version = root, 2
        elif "memory" in controllers.split(","):
            top, version = root / "memory", 1
        else:
            continue
        # In a container the path may be the host's, of which only the root is mounted, or lead out of it.
        folder = top if ".." in Path(path).parts else top / path.lstrip("/")
        for each in (folder, *folder.parents):
            if each.is_relative_to(top):
                yield Cgroup(each, version)

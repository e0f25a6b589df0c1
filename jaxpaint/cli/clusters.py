"""Options of commands whose work the workers of a Ray cluster can do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jaxpaint.base.errors import UserError

if TYPE_CHECKING:
    from jaxpaint.studies.cluster import Cluster


def add_cluster_options(parser: argparse.ArgumentParser) -> None:
    machines = parser.add_argument_group("many machines")
    machines.add_argument(
        "--ray", metavar="ADDRESS", help="compute on a Ray cluster; HOST:PORT, or auto for this one's"
    )
    machines.add_argument(
        "--ray-worker",
        metavar="GPU=1",
        help="what each worker takes there (default: a GPU, or a CPU where there is none)",
    )


def chosen_cluster(options: argparse.Namespace) -> Cluster | None:
    """Raises UserError where --ray is not what it can be."""
    if options.ray is None:
        if options.ray_worker is not None:
            raise UserError("--ray-worker is of workers on a Ray cluster; give --ray HOST:PORT, or --ray auto")
        return None
    from jaxpaint.studies.cluster import Cluster, resources

    return Cluster(options.ray, None if options.ray_worker is None else resources(options.ray_worker))

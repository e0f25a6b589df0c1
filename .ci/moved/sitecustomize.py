"""Modules under the names that they had when the fault scripts were written: `jaxpaint.packing` and the like."""

import importlib
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec

MOVED = {"jaxpaint.packing": "jaxpaint.engine.packing", "jaxpaint.score": "jaxpaint.engine.score"}


class Moved(MetaPathFinder, Loader):
    def find_spec(self, name, path, target=None):
        return ModuleSpec(name, self) if name in MOVED else None

    def create_module(self, spec):
        return importlib.import_module(MOVED[spec.name])

    def exec_module(self, module):
        pass


sys.meta_path.append(Moved())

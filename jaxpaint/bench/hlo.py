"""What a compiled program does, read off its text (XLA's optimised HLO): loops, copies, collectives, cycles."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "s4": 0.5, "u4": 0.5, "f8e4m3fn": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z\-]+)\((.*)$")
_ARRAY = re.compile(r"\b([a-z]+[0-9a-z]*)\[([0-9,]*)\]")


@dataclass(frozen=True)
class Instruction:
    """`result` is the type as written, layouts included; `line` all of it."""

    name: str
    operation: str
    result: str
    line: str

    @property
    def arrays(self) -> list[tuple[str, tuple[int, ...]]]:
        """(dtype, shape) of the result's arrays."""
        found = _ARRAY.findall(self.result)
        return [(dtype, tuple(int(n) for n in sizes.split(",") if n)) for dtype, sizes in found if dtype in _BYTES]

    @property
    def bytes(self) -> int:
        return int(sum(_BYTES[dtype] * math.prod(shape) for dtype, shape in self.arrays))

    @property
    def cycles(self) -> int:
        """The TPU compiler's own estimate; 0 where there is none."""
        found = re.search(r'"estimated_cycles":"?(\d+)', self.line)
        return int(found[1]) if found else 0

    @property
    def kernel_flops(self) -> int:
        """Operations of a Pallas kernel, as it says itself; 0 for all else."""
        found = re.search(r'"cost_estimate":\{"flops":"(\d+)"', self.line)
        return int(found[1]) if found else 0

    def called(self, what: str) -> str | None:
        found = re.search(rf"\b{what}=%?([\w.\-]+)", self.line)
        return found[1] if found else None

    @property
    def runs(self) -> list[str]:
        """The computations that a loop, a call or a conditional runs."""
        if self.operation == "conditional":
            return self.branches
        what = {"while": "body", "call": "to_apply"}.get(self.operation)
        called = self.called(what) if what else None
        return [called] if called else []

    @property
    def branches(self) -> list[str]:
        """The computations that a conditional chooses from."""
        found = re.search(r"branch_computations=\{(.*?)\}", self.line)
        either = [self.called("true_computation"), self.called("false_computation")]
        return re.findall(r"[\w.\-]+", found[1].replace("%", "")) if found else [name for name in either if name]


@dataclass(frozen=True)
class Module:
    """Computations by name, in the order of their instructions."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    @classmethod
    def parse(cls, text: str) -> Module:
        computations: dict[str, list[Instruction]] = {}
        name, entry = "", ""
        for line in text.splitlines():
            if found := _COMPUTATION.match(line):
                name = found[2]
                computations[name] = []
                entry = name if found[1] else entry
            elif name and (found := _INSTRUCTION.match(line)):
                computations[name].append(Instruction(found[1], found[3], found[2], line))
        return cls({name: tuple(lines) for name, lines in computations.items()}, entry)

    @cached_property
    def _fused(self) -> frozenset[str]:
        """Bodies of fusions and of reductions: what they hold is not written to memory."""
        every = (line for lines in self.computations.values() for line in lines)
        inside = {line.called("calls") for line in every if line.operation == "fusion"}
        every = (line for lines in self.computations.values() for line in lines)
        inside |= {line.called("to_apply") for line in every if line.operation != "call"}
        return frozenset(name for name in inside if name)

    def _below(self, name: str) -> Iterator[str]:
        """A computation and those that it runs, fusions left out."""
        yield name
        for line in self.computations.get(name, ()):
            for called in line.runs:
                yield from self._below(called)

    @cached_property
    def written(self) -> dict[str, tuple[Instruction, ...]]:
        """What each computation that runs writes to memory."""
        runs = dict.fromkeys(self._below(self.entry))
        return {name: self.computations[name] for name in runs if name in self.computations and name not in self._fused}

    @cached_property
    def loops(self) -> dict[str, int | None]:
        """Bodies of loops, and how often they run where that is known."""
        found: dict[str, int | None] = {}
        for lines in self.written.values():
            for line in lines:
                if line.operation == "while" and (body := line.called("body")):
                    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.line)
                    found[body] = int(trips[1]) if trips else None
        return found

    @cached_property
    def in_loops(self) -> tuple[Instruction, ...]:
        """What is written to memory inside of loops."""
        names = dict.fromkeys(name for body in self.loops for name in self._below(body))
        return tuple(line for name in names for line in self.written.get(name, ()))

    def cycles(self, name: str | None = None) -> int:
        """Of one run of a computation (default: the entry), loops whose number of runs is not known counted once."""
        return self._total(name or self.entry, lambda line: line.cycles)

    def kernel_flops(self, name: str | None = None) -> int:
        """Operations of Pallas kernels, which no cycles are estimated for, counted as `cycles` are."""
        return self._total(name or self.entry, lambda line: line.kernel_flops)

    def _total(self, name: str, measure: Callable[[Instruction], int]) -> int:
        total = 0
        for line in self.computations.get(name, ()):
            if line.operation == "while" and (body := line.called("body")):
                total += self._total(body, measure) * (self.loops.get(body) or 1)
            elif line.operation == "conditional":
                total += max((self._total(branch, measure) for branch in line.branches), default=0)
            elif line.operation == "call" and (called := line.called("to_apply")):
                total += self._total(called, measure)
            else:
                total += measure(line)
        return total

    @cached_property
    def layer_loop(self) -> str | None:
        """The loop that layers run in: the one that costs most by itself, without the loops in it."""
        return self.costliest(self.loops)

    @property
    def nested_layer_loop(self) -> str | None:
        """The same among loops within a loop, as decoding has them: that over tokens holds the vocabulary's product."""
        return self.costliest([body for body in self.loops if self.around(body) is not None])

    def costliest(self, loops: Iterable[str]) -> str | None:
        """The one of some loops that costs most by itself, without the loops in it."""

        def own(body: str) -> tuple[int, int]:
            lines = self.computations[body]
            inner = (
                self.cycles(called) for line in lines if line.operation == "while" and (called := line.called("body"))
            )
            return self.cycles(body) - sum(inner), len(lines)

        return max(loops, key=own, default=None)

    def around(self, loop: str) -> str | None:
        """The innermost loop that runs a loop."""
        outer = [body for body in self.loops if body != loop and loop in self._below(body)]
        return min(outer, key=lambda body: len(list(self._below(body))), default=None)

    def collectives(self, name: str) -> Counter[tuple[str, int]]:
        """(operation, bytes of its result) of one run of a computation, loops in it counted once."""
        found: Counter[tuple[str, int]] = Counter()
        for part in dict.fromkeys(self._below(name)):
            for line in self.written.get(part, ()):
                if (operation := line.operation.removesuffix("-start")) in COLLECTIVES:
                    found[operation, _received(line)] += 1
        return found


def _received(line: Instruction) -> int:
    """Bytes of a collective's result. Those that begin it, all-reduce's left out, give what was sent as well."""
    if line.operation in ("all-gather-start", "collective-permute-start"):
        dtype, shape = line.arrays[1]
        return int(_BYTES[dtype] * math.prod(shape))
    return line.bytes


def weight_copies(module: Module, shapes: set[tuple[int, ...]]) -> list[Instruction]:
    """What writes an array of a weight's shape, or of a whole stack's, to memory; not a TPU's prefetches (`S(1)`)."""
    wanted = {tuple(sorted(n for n in shape if n != 1)) for shape in shapes}
    copying = ("copy", "fusion", "dynamic-slice", "gather", "transpose", "concatenate")
    return [
        line
        for lines in module.written.values()
        for line in lines
        if line.operation in copying
        and "S(1)" not in line.result
        and any(tuple(sorted(n for n in shape if n != 1)) in wanted for _, shape in line.arrays)
    ]

"""How long a plan took on a machine: a kind of analysis whose settings name the machine and the sizes."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from statistics import median, quantiles
from typing import Any

from jaxpaint.base.words import count
from jaxpaint.results.kinds import LATENCY


@dataclass(frozen=True)
class Setting:
    """What timings are compared within: the machine, what computes on it, and the sizes. The model's row has the dtype.

    `device` is the processor's model, or the accelerator's kind; `threads` are the processor's that the process may
    use. Every prompt has `prompt_length` tokens, and `new_tokens` are written after each of the `batch_size` at once.
    """

    device: str
    num_devices: int
    threads: int
    jax: str
    batch_size: int
    prompt_length: int
    new_tokens: int
    tensor_parallel: int = 1
    layer_parallel: int = 1

    @property
    def machine(self) -> str:
        """In words."""
        devices = f"{self.num_devices} × {self.device}" if self.num_devices > 1 else self.device
        split = f", each weight over {self.tensor_parallel}" if self.tensor_parallel > 1 else ""
        split += f", groups over {self.layer_parallel} lanes" if self.layer_parallel > 1 else ""
        return f"{devices}{split}, {count(self.threads, 'thread')}, jax {self.jax}"

    @property
    def sizes(self) -> str:
        """In words."""
        return f"{count(self.batch_size, 'prompt')} of {self.prompt_length} tokens, {self.new_tokens} new ones each"


@dataclass(frozen=True)
class Spread:
    """Of several rounds: the median and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, middle, high = quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def scaled(self, by: float) -> Spread:
        return Spread(by * self.median, by * self.low, by * self.high)


@dataclass(frozen=True)
class Latency:
    """A plan's rounds: seconds until the first new token of all prompts, and until the last one.

    `peak_memory` is in bytes, of the whole process on a CPU and of one device elsewhere; None where it isn't known.
    """

    setting: Setting
    first_seconds: tuple[float, ...]
    whole_seconds: tuple[float, ...]
    peak_memory: int | None = None

    @property
    def first(self) -> Spread:
        """Seconds to the first new token: reading the prompts, and one step of decoding."""
        return Spread.of(self.first_seconds)

    @property
    def whole(self) -> Spread:
        """Seconds to the last new token."""
        return Spread.of(self.whole_seconds)

    @property
    def step_seconds(self) -> tuple[float, ...]:
        """Seconds of each further token of a row, by round."""
        steps = self.setting.new_tokens - 1
        pairs = zip(self.first_seconds, self.whole_seconds, strict=True)
        return tuple((whole - first) / steps for first, whole in pairs)

    @property
    def step(self) -> Spread:
        """Seconds of each further token of a row."""
        return Spread.of(self.step_seconds)

    @property
    def told(self) -> bool:
        """Whether the further tokens took longer than calls differ by: else their times mean nothing."""
        return self.step.low > 0

    @property
    def prefill_rate(self) -> float:
        """Tokens of the prompts, by the seconds to the first new token."""
        return self.setting.batch_size * self.setting.prompt_length / self.first.median

    @property
    def decode_rate(self) -> float | None:
        """Further tokens a second, all rows together; None where they are not `told`."""
        return self.setting.batch_size / self.step.median if self.told else None

    @property
    def value(self) -> list[list[float | None]]:
        """As it is stored: numbers in lists."""
        return [[*self.first_seconds], [*self.whole_seconds], [self.peak_memory]]


def beside(first: Sequence[float], second: Sequence[float]) -> float:
    """How many times as long the second plan took as the first, round by round: the median."""
    return median(theirs / ours for ours, theirs in zip(first, second, strict=True))


@dataclass(frozen=True)
class LatencyRow:
    """A plan of the store, by its id, and how long it took."""

    plan: int
    text: str
    latency: Latency


def latencies(connection: sqlite3.Connection, model: int) -> list[LatencyRow]:
    """What was measured of a model, inside the caller's `reading`; in the order of settings, then of plans.

    Rows of another form, which another version may write, are passed over.
    """
    rows = connection.execute(
        "SELECT plan, text, settings, value FROM analyses JOIN plans ON plans.id = plan WHERE model = ? AND name = ? "
        "ORDER BY settings, plan",
        (model, LATENCY),
    )
    found = [(plan, text, _read(json.loads(settings), json.loads(value))) for plan, text, settings, value in rows]
    return [LatencyRow(plan, text, latency) for plan, text, latency in found if latency is not None]


def _read(settings: Mapping[str, Any], value: Any) -> Latency | None:
    if settings.keys() != {field.name for field in fields(Setting)}:
        return None
    try:
        first, whole, (peak,) = value
        read = Latency(Setting(**settings), tuple(first), tuple(whole), None if peak is None else int(peak))
        return read if read.first.median > 0 and read.step else None
    except (TypeError, ValueError):
        return None

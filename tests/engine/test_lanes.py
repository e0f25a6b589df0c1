"""Parallel groups over lanes of devices: what each lane runs, and equality with one device on eight simulated ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.engine.lanes import as_data, columns_of, dealt
from jaxpaint.engine.program import FORK, GATHER, IDLE, LAST, LAYER, MEMBER, WAIT, WEIGH, Program
from jaxpaint.models.sharding import mesh_shape
from jaxpaint.plans.nodes import Parallel, applications, cost, units
from jaxpaint.plans.plan import Plan
from tests.engine.test_compiled import plans

ROOT = Path(__file__).parents[2]
LANES = st.integers(2, 9)
unweighted = plans.filter(lambda plan: "@" not in str(plan))


@given(unweighted, LANES, st.booleans())
def test_every_layer_of_the_plan_runs_on_one_lane_or_in_series_on_all(plan: Plan, lanes: int, one_part: bool) -> None:
    """With the number that a single program gives it: the place of its keys and values."""
    columns, program = columns_of(plan, lanes, one_part=one_part), Program.of(plan)
    single = [(index, number) for code, index, number, *_ in program.instructions[: program.length] if code <= LAST]
    ran: Counter[tuple[int, int]] = Counter()
    for column in columns:
        if all(step == column[0] and step[0] == LAYER for step in column) and not _in_group(columns, column):
            ran[column[0][1:3]] += 1
        else:
            ran.update(step[1:3] for step in column if IDLE < step[0] <= LAST)
    assert ran == Counter(single)


def _in_group(columns: list, column: object) -> bool:
    """Whether a column stands between a fork and the sum over lanes."""
    forked = False
    for each in columns:
        if each is column:
            return forked
        forked = {FORK: True, GATHER: False}.get(each[0][0], forked) if len({step[0] for step in each}) == 1 else forked
    raise AssertionError


@given(unweighted, LANES)
def test_lanes_are_in_step_and_no_longer_than_the_longest_needs(plan: Plan, lanes: int) -> None:
    columns = columns_of(plan, lanes)
    for column in columns:
        assert len(column) == lanes
        assert len({step[0] <= LAST for step in column}) == 1, "some run a layer while others fork or join"
        assert {step[0] for step in column} != {WAIT}
        assert any(step[0] != IDLE for step in column)
    gathered = sum(column[0][0] == GATHER for column in columns)
    assert gathered == sum(isinstance(unit, Parallel) for unit in units(plan.root)), "one sum a group"
    longest = 0
    for unit in units(plan.root):
        branches = unit.branches if isinstance(unit, Parallel) else (unit,)
        shares = dealt([cost(branch) for branch in branches], lanes)
        longest += max(sum(applications(branches[branch]) for branch in own) for own in shares)
    assert sum(column[0][0] <= LAST for column in columns) == longest
    if lanes == 9 and all(len(unit.branches) <= 9 for unit in units(plan.root) if isinstance(unit, Parallel)):
        assert longest >= plan.depth


@given(plans, LANES)
def test_where_lanes_share_weights_all_run_the_same_part_at_a_time(plan: Plan, lanes: int) -> None:
    assert all(
        len({step[4] for step in column if step[0] <= LAST}) <= 1 for column in columns_of(plan, lanes, one_part=True)
    )
    if not plan.has_sublayers:
        assert columns_of(plan, lanes, one_part=True) == columns_of(plan, lanes)


def test_the_papers_group() -> None:
    columns = [[step[:4] for step in column] for column in columns_of(Plan.parse("7 {0-4} 8"), 2)]
    assert columns[0] == [(LAYER, 7, 0, 0)] * 2
    assert columns[1] == [(MEMBER, 0, 1, 5), (MEMBER, 1, 2, 5)]
    assert columns[3] == [(MEMBER, 4, 5, 5), (IDLE, 4, 5, 0)]
    assert columns[4] == [(GATHER, 0, 5, 0)] * 2
    assert columns[5:] == [[(LAYER, 8, 6, 0)] * 2]


def test_groups_within_a_weight_are_shared_too() -> None:
    plan = Plan.parse("7 (0 {1 2} {(3 4) 5})@0.5 8")
    columns = [[step[:4] for step in column] for column in columns_of(plan, 2)]
    assert [[step[:2] for step in column] for column in columns[1:3]] == [[(FORK, 0)] * 2, [(LAYER, 0)] * 2]
    assert columns[3] == [(MEMBER, 1, 2, 2), (MEMBER, 2, 3, 2)]
    assert columns[4] == [(GATHER, 0, 2, 0)] * 2
    assert columns[5] == [(FORK, 1, 0, 0)] * 2
    assert columns[6] == [(LAYER, 3, 4, 0), (LAYER, 5, 6, 0)]
    assert columns[-3] == [(GATHER, 1, 2, 0)] * 2
    assert columns[-2] == [(WEIGH, 0, int(np.float32(0.5).view(np.int32)), 0)] * 2
    assert columns[-1] == [(LAYER, 8, 7, 0)] * 2


def test_long_branches_are_dealt_first() -> None:
    assert dealt([1, 1, 4, 2, 1], 2) == [[2, 4], [3, 0, 1]]
    assert dealt([3], 3) == [[0], [], []]


def test_without_lanes_a_plan_is_the_program_that_it_was() -> None:
    instructions, length = as_data(Plan.parse("0 {1-3} 4"), None)
    assert (instructions == Program.of(Plan.parse("0 {1-3} 4")).instructions).all()
    assert length == 5


def test_axes_of_meshes() -> None:
    assert mesh_shape(8, 2) == {"data": 4, "model": 2}
    assert list(mesh_shape(8, 2, 2).items()) == [("data", 2), ("layer", 2), ("model", 2)]
    for arguments in ((8, 2, 3), (8, 1, 0), (8, 8, 2), (1, 1, 2)):
        with pytest.raises(UserError, match="lanes"):
            mesh_shape(*arguments)


def on_eight_devices(marked: str) -> None:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "tests/engine/on_eight_devices.py"]
    done = subprocess.run([*command, "-m", marked], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]


@pytest.mark.slow
def test_eight_devices_give_what_one_gives() -> None:
    on_eight_devices("not slow")


@pytest.mark.slow
def test_eight_devices_train_and_write_as_one() -> None:
    on_eight_devices("slow")

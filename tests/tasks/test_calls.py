"""What the machine does not allow is no fault of a task's, wherever in its code it shows."""

from __future__ import annotations

import sys

import pytest

from jaxpaint.base import memory
from jaxpaint.base.errors import UserError
from jaxpaint.base.limits import FILES, MEMORY

pytest.importorskip("lm_eval")

from jaxpaint.tasks.calls import in_tasks, told_of
from jaxpaint.tasks.load import load_tasks


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), MEMORY),
        (ImportError("a.so: failed to map segment from shared object"), MEMORY),
        (OSError(24, "Too many open files"), FILES),
    ],
)
@pytest.mark.parametrize("within", [in_tasks, lambda: told_of(["lambada_openai"])])
def test_limits_are_told(within, error: Exception, words: str) -> None:
    with pytest.raises(UserError) as raised, within():
        raise error
    assert str(raised.value) == words


def test_addresses_are_asked_for_before_lm_eval_is_loaded(monkeypatch, tmp_path) -> None:
    """With few of them left a thread that cannot begin is waited for without end."""
    proc = tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self" / "limits").write_text("Max address space  3200000000  unlimited  bytes\n")
    (proc / "self" / "status").write_text("VmSize: 1500000 kB\n")
    monkeypatch.setattr(memory, "PROC", proc)
    monkeypatch.delitem(sys.modules, "lm_eval.tasks", raising=False)
    with pytest.raises(UserError, match=r"lm-eval's tasks needs 2\.25 GB of addresses, .* allow about 3\.8 GB$"):
        load_tasks(["lambada_openai"])

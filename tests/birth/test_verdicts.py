"""Every verdict can come out, the unwelcome ones too."""

from __future__ import annotations

import numpy as np
import pytest

from jaxpaint.birth.verdicts import above, below, shown, sooner, steps_to, verdict


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([True, True], "holds"),
        ([True, False], "in part"),
        ([True, None], "in part"),
        ([False, False], "does not hold"),
        ([False, None], "cannot be told"),
        ([None], "cannot be told"),
        ([], "cannot be told"),
    ],
)
def test_a_claim_of_parts(parts, expected) -> None:
    assert verdict(parts) == expected


def test_two_standard_errors_decide() -> None:
    assert above([0.5, 0.6, 0.7], 0.4) is True
    assert above([0.5, 0.6, 0.7], 0.55) is None  # 0.6 ± 0.115
    assert above([0.5, 0.6, 0.7], 0.8) is False
    assert below([0.5, 0.6, 0.7], 0.8) is True
    assert above([0.5], 0.4) is True
    assert shown([0.5, 0.6, 0.7]) == "0.60 ± 0.12"
    assert shown([0.5]) == "0.50"


def test_steps_to_a_level() -> None:
    at = np.array([0, 10, 20])
    found = steps_to(np.array([[0, 0.5, 0.9], [0.9, 0, 0], [0, 0, 0.1]]), at, 0.5)
    assert found.tolist() == [10, 0, np.inf]
    assert sooner(np.array([10.0, 20]), np.array([30.0, 35]), 40) is True
    assert sooner(np.array([30.0, 35]), np.array([10.0, 20]), 40) is False
    assert sooner(np.array([10.0, 20]), np.array([np.inf, np.inf]), 40) is True
    assert sooner(np.array([np.inf]), np.array([np.inf]), 40) is None

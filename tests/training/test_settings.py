"""What results stores keep of how models were trained: other settings are another task in old stores, so they stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from jaxpaint.base.errors import UserError
from jaxpaint.training.settings import DECODER, ENCODER, HEAD


def test_what_is_kept_of_a_decoder() -> None:
    kept = {"learning_rate": 5e-5, "epochs": 1, "batch_size": 64, "max_grad_norm": 1.0, "weight_decay": 0.0, "seed": 0}
    assert DECODER.of_decoder() == kept
    assert replace(DECODER, seeds=(3,)).of_decoder() == {**kept, "seed": 3}


def test_what_is_kept_of_an_encoder() -> None:
    """In this order, which names the folder of a training that was ended."""
    kept = {
        **{"learning_rate": 2e-5, "epochs": 3, "batch_size": 32, "max_grad_norm": 1.0, "weight_decay": 0.0},
        **{"dropout": None, "max_length": 128, "seeds": (0, 1, 2)},
    }
    assert list(ENCODER.of_encoder().items()) == list(kept.items())


def test_what_is_kept_of_a_classifier_alone() -> None:
    head = {"learning_rate": 3e-2, "epochs": 3, "batch_size": 32, "dropout": None, "max_grad_norm": 1.0}
    assert HEAD.of_head() == {"head": head, "max_length": 128, "seeds": (0, 1, 2)}


@pytest.mark.parametrize(
    "change",
    [
        *({"epochs": 0}, {"learning_rate": float("nan")}, {"batch_size": -1}, {"max_grad_norm": float("inf")}),
        *({"max_length": 0}, {"weight_decay": -1.0}, {"dropout": 1.0}, {"seeds": ()}, {"seeds": (1, 1)}),
        *({"seeds": (-1,)}, {"epochs": 2_000_000_000}, {"batch_size": 2_000_000_000}),
    ],
)
def test_what_cannot_be_trained_with_is_told(change: dict[str, object]) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        replace(ENCODER, **change)

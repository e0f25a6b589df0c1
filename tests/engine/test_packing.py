"""Packing: whatever the requests, each one's tokens are seen in full and in order, and nothing else is."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeAlias

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxpaint.base.errors import UserError
from jaxpaint.engine.packing import TARGETS_PER_POSITION, Batch, Request, pack

MAX_LENGTH = 150
ATTENTION_COST = 0.002


Pairs: TypeAlias = list[tuple[list[int], list[int]]]


@st.composite
def context_continuation_pairs(draw: st.DrawFn) -> Pairs:
    """Pairs of few different tokens, which continue a few stems that are prefixes of each other."""
    source = np.random.default_rng(draw(st.integers(0, 99)))
    longest = source.integers(0, draw(st.integers(1, 3)), 160).tolist()
    stems = draw(st.lists(st.integers(0, 160), min_size=1, max_size=4))
    pairs = []
    for _ in range(draw(st.integers(0, 30))):
        tail = draw(st.lists(st.integers(0, 2), min_size=2, max_size=6))
        cut = draw(st.integers(1, len(tail) - 1))
        context = longest[: draw(st.sampled_from(stems))] + tail[:cut]
        pairs.append((context, tail[cut:]))
    return pairs


def _requests(pairs: Pairs) -> list[Request]:
    return [Request.of(context, continuation, MAX_LENGTH) for context, continuation in pairs]


def _pack(
    requests: Sequence[Request], batch_tokens: int = 256, rows_multiple: int = 1, whole_rows: bool = False
) -> list[Batch]:
    how = {"rows_multiple": rows_multiple, "whole_rows": whole_rows}
    return pack(requests, batch_tokens=batch_tokens, attention_cost=ATTENTION_COST, **how)


def _seen(batch: Batch) -> np.ndarray:
    """Which tokens of a stream [key] each token [query] sees, from the definition of `visible_until` and `lookback`."""
    rows, length = batch.tokens.shape
    index = np.arange(batch.tokens.size)
    ends = (batch.visible_until + np.arange(rows)[:, None] * length).reshape(-1)
    in_reach = index[:, None] // length - index[None, :] // length <= batch.lookback
    return in_reach & (index[None, :] <= index[:, None]) & (index[:, None] < ends[None, :])


def _decode(batches: Sequence[Batch]) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    """Per request, in order: the tokens that each of its scored positions sees, and the target there."""
    found: dict[int, list[tuple[tuple[int, ...], int]]] = {}
    for batch in batches:
        seen, tokens, positions = _seen(batch), batch.tokens.reshape(-1), batch.positions.reshape(-1)
        for request_id, slot in zip(batch.request_ids.tolist(), batch.slots.tolist(), strict=True):
            place, column = divmod(slot, TARGETS_PER_POSITION)
            assert place < batch.count
            path = np.flatnonzero(seen[batch.scored[place]])
            assert positions[path].tolist() == list(range(len(path)))
            entry = tuple(tokens[path].tolist()), int(batch.targets[place, column])
            found.setdefault(request_id, []).append(entry)
    return found


def _expected(requests: Sequence[Request]) -> dict[int, list[tuple[tuple[int, ...], int]]]:
    return {
        number: [
            (request.tokens[: len(request.tokens) - len(request.targets) + 1 + step], target)
            for step, target in enumerate(request.targets)
        ]
        for number, request in enumerate(requests)
        if request.targets
    }


class TestLayout:
    @given(context_continuation_pairs(), st.sampled_from([64, 256, 2048]), st.sampled_from([1, 3]), st.booleans())
    def test_every_target_sees_exactly_its_prefix(
        self, pairs: Pairs, batch_tokens: int, rows_multiple: int, whole_rows: bool
    ) -> None:
        requests = _requests(pairs)
        assert _decode(_pack(requests, batch_tokens, rows_multiple, whole_rows)) == _expected(requests)

    @given(context_continuation_pairs(), st.booleans())
    def test_padding_sees_and_is_seen_by_itself_alone(self, pairs: Pairs, whole_rows: bool) -> None:
        for batch in _pack(_requests(pairs), whole_rows=whole_rows):
            seen = _seen(batch)
            real = seen[batch.scored[: batch.count]].any(axis=0)
            assert batch.real_tokens == real.sum()
            alone = np.eye(batch.tokens.size, dtype=bool)
            np.testing.assert_array_equal(seen[~real], alone[~real])
            np.testing.assert_array_equal(seen[:, ~real], alone[:, ~real])

    @given(context_continuation_pairs(), st.sampled_from([64, 256, 2048]), st.sampled_from([1, 3]), st.booleans())
    def test_arrays(self, pairs: Pairs, batch_tokens: int, rows_multiple: int, whole_rows: bool) -> None:
        for batch in _pack(_requests(pairs), batch_tokens, rows_multiple, whole_rows):
            rows, length = batch.tokens.shape
            assert rows % rows_multiple == 0
            largest = max(positions.max() + 1 for positions in batch.positions)
            assert batch.tokens.size <= max(batch_tokens, (batch.lookback + 1) * length * rows_multiple, largest)
            assert batch.positions.shape == batch.visible_until.shape == (rows, length)
            assert (batch.visible_until.max(axis=1) <= np.arange(rows, 0, -1) * length).all()
            assert 0 < batch.count <= batch.scored.size
            assert batch.targets.shape == (batch.scored.size, TARGETS_PER_POSITION)
            assert len(set(batch.scored[: batch.count].tolist())) <= batch.real_tokens

    @given(context_continuation_pairs(), st.sampled_from([64, 256, 2048]))
    def test_at_most_two_shapes(self, pairs: Pairs, batch_tokens: int) -> None:
        batches = _pack(_requests(pairs), batch_tokens)
        assert len({(batch.tokens.shape, batch.lookback, batch.scored.shape) for batch in batches}) <= 2

    def test_almost_no_padding(self) -> None:
        """Texts of 20 to 140 tokens fill batches of 2048 to within 2 percent."""
        source = np.random.default_rng(0)
        requests = [
            Request.of(source.integers(0, 9999, length).tolist(), [1], MAX_LENGTH)
            for length in source.integers(20, 140, 300)
        ]
        batches = _pack(requests, 2048)
        assert sum(batch.tokens.size for batch in batches) <= 1.02 * sum(len(request.tokens) for request in requests)

    def test_whole_rows_where_texts_fill_them(self) -> None:
        """Texts of 511 tokens take a row each and look back to none; they do not where rows would be half empty."""
        source = np.random.default_rng(0)
        fitting, halves = (
            [Request.of(source.integers(0, 9999, length).tolist(), [1], 512) for length in lengths]
            for lengths in ([511] * 20, source.integers(200, 511, 40))
        )
        whole = pack(fitting, batch_tokens=4096, attention_cost=1e-4, whole_rows=True)
        assert {(batch.tokens.shape[1], batch.lookback) for batch in whole} == {(512, 0)}
        assert sum(batch.tokens.shape[0] for batch in whole) <= 21
        tokens = sum(len(request.tokens) for request in halves)
        others = pack(halves, batch_tokens=4096, attention_cost=1e-4, whole_rows=True)
        assert sum(batch.tokens.size for batch in others) < 1.15 * tokens

    @given(context_continuation_pairs(), st.randoms())
    def test_order_of_requests_costs_nothing(self, pairs: Pairs, shuffle: Random) -> None:
        requests = _requests(pairs)
        shuffled = shuffle.sample(requests, len(requests))
        first, second = (
            [(batch.tokens.shape, batch.real_tokens) for batch in _pack(group)] for group in (requests, shuffled)
        )
        assert sorted(first) == sorted(second)


class TestSharing:
    @given(
        st.lists(st.integers(0, 2), min_size=8, max_size=10),
        st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=4), min_size=1, max_size=8),
    )
    def test_a_shared_prefix_is_stored_once(self, context: list[int], continuations: list[list[int]]) -> None:
        requests = [Request.of(context, continuation, MAX_LENGTH) for continuation in continuations]
        prefixes = {request.tokens[:end] for request in requests for end in range(1, len(request.tokens) + 1)}
        assert sum(batch.real_tokens for batch in _pack(requests)) == len(prefixes)

    def test_answers_to_one_question(self) -> None:
        question = list(range(30))
        requests = [Request.of(question, [100 + answer, 200], MAX_LENGTH) for answer in range(4)]
        (batch,) = _pack(requests)
        assert batch.real_tokens == 30 + 4
        assert batch.count == 1 + 4  # the four first words are four targets of one position

    def test_duplicates_cost_nothing(self) -> None:
        request = Request.of([1, 2, 3], [4, 5], MAX_LENGTH)
        once, twice = (_pack([request] * times) for times in (1, 2))
        assert [(batch.real_tokens, batch.count) for batch in once] == [(4, 2)]
        assert [(batch.real_tokens, batch.count) for batch in twice] == [(4, 2)]
        assert _decode(twice)[0] == _decode(twice)[1]

    @pytest.mark.parametrize("number", [1, 4, 5, 63, 64, 65, 300, 1000])
    def test_many_targets_after_a_single_token(self, number: int) -> None:
        """Far more scored positions than tokens."""
        requests = [Request.of([7], [target], MAX_LENGTH) for target in range(number)]
        batches = _pack(requests, batch_tokens=64)
        assert _decode(batches) == _expected(requests)

    def test_many_targets_at_every_token_of_a_long_text(self) -> None:
        text = [token % 3 for token in range(140)]
        requests = [
            Request.of(text[:end], [*text[end : end + 3], target], MAX_LENGTH)
            for end in range(1, 137, 5)
            for target in range(10, 19)
        ]
        assert _decode(_pack(requests)) == _expected(requests)


class TestRequest:
    @given(
        st.lists(st.integers(0, 9), min_size=1, max_size=30),
        st.lists(st.integers(0, 9), max_size=12),
        st.integers(12, 40),
    )
    def test_truncation_is_that_of_lm_eval(self, context: list[int], continuation: list[int], max_length: int) -> None:
        """`(context_enc + continuation_enc)[-(self.max_length + 1) :][:-1]` in lm-eval's `HFLM`."""
        request = Request.of(context, continuation, max_length)
        assert list(request.tokens) == (context + continuation)[-(max_length + 1) :][:-1]
        assert list(request.targets) == continuation
        assert len(request.tokens) <= max_length

    def test_a_continuation_as_long_as_the_model_reads(self) -> None:
        request = Request.of([1, 2], [3, 4, 5], 3)
        assert (request.tokens, request.targets) == ((2, 3, 4), (3, 4, 5))

    def test_refusals(self) -> None:
        with pytest.raises(UserError, match="context token"):
            Request.of([], [1], 4)
        with pytest.raises(UserError, match=r"5 tokens.*4 positions"):
            Request.of([1], [1, 2, 3, 4, 5], 4)

    @pytest.mark.parametrize("requests", [[], [Request.of([1, 2], [], 4)]])
    def test_nothing_to_score(self, requests: list[Request]) -> None:
        assert _pack(requests) == []


@pytest.mark.parametrize("length", [1, 16, 17, 90, 200, 257, 385, 512])
def test_one_text_has_a_row_to_itself(length):
    [batch] = _pack([Request.of([1] * length, [2], length)], batch_tokens=2048)
    assert len(batch.tokens) == 1
    assert batch.lookback == 0
    assert length <= batch.tokens.size <= max(length + 15, 1.13 * length)


@pytest.mark.parametrize("length", [513, 641, 900, 2000])
def test_a_long_text_is_hardly_padded(length):
    [batch] = pack(
        [Request.of([1] * length, [2], length)], batch_tokens=2048, attention_cost=ATTENTION_COST, blockwise=True
    )
    assert batch.lookback is None
    assert length <= batch.tokens.size <= 1.13 * length


def test_a_text_alone_is_shared_by_its_devices():
    [batch] = _pack([Request.of([1] * 100, [2], 100)], rows_multiple=4)
    assert len(batch.tokens) == 4

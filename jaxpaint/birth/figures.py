"""The figures of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaint.birth.counts import shipped
from jaxpaint.birth.findings import Runs
from jaxpaint.birth.run import Outcome
from jaxpaint.birth.settings import BIGRAM, CONTROL, ONE, RANDOM, RARE_ARM, REDRAWN, UNFROZEN, frozen_name
from jaxpaint.report.figures.style import BLACK, GREY, SERIES_LOOKS, VERMILLION, Drawn, legend_below, look

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RECALLS = {
    "output": "R(W_O2): output",
    "trigger": "R(W_K2): trigger",
    "previous_token": "R(W_K1): previous token, t < 64",
    "accuracy": "in-context accuracy",
}
SHOWN_TOKENS = 40  # of an attention map


def figures(outcome: Outcome) -> Iterator[Drawn]:
    """Those that there is something to draw for."""
    runs = outcome.runs
    yield _learning(runs)
    yield _memories(runs)
    if any(name.startswith("W_") for name in _names(runs)):
        yield _frozen(runs)
    if {ONE, RANDOM, RARE_ARM, BIGRAM} & set(_names(runs)):
        yield _texts(runs)
    if runs.settings.plans:
        yield _plans(runs)
    yield _attention(runs)


def _names(runs: Runs) -> list[str]:
    return [arm.name for group in runs.groups.values() for arm in group.arms]


def _curve(axes: Axes, runs: Runs, values: np.ndarray, number: int, label: str) -> None:
    """The mean over seeds, and their range."""
    colour, marker, line = (BLACK, "*", (0, (5, 1, 1, 1, 1, 1))) if number == len(SERIES_LOOKS) else look(number)
    spaced = max(1, len(runs.at) // 8)
    axes.plot(runs.at, values.mean(axis=0), color=colour, linestyle=line, marker=marker, markevery=spaced, label=label)
    if len(values) > 1:
        axes.fill_between(runs.at, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, linewidth=0)


def _fraction(axes: Axes, label: str) -> None:
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("step")
    axes.set_ylabel(label)


def _learning(runs: Runs) -> Drawn:
    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for number, (name, label) in enumerate((("in_context_loss", "in context"), ("global_loss", "global"))):
            _curve(left, runs, runs.measured(UNFROZEN, name), number, f"loss, {label}")
        left.set(xlabel="step", ylabel="loss (nats)", ylim=(0, None))
        parts = (
            ("accuracy", "in context"),
            ("output_accuracy", "all outputs"),
            ("start_accuracy", "first 10 positions"),
        )
        for number, (name, label) in enumerate(parts):
            _curve(right, runs, runs.measured(UNFROZEN, name), number + 2, f"accuracy, {label}")
        _fraction(right, "accuracy")
        _legend(figure, left, right)

    caption = "Loss and accuracy on test texts; bands are the range over seeds."
    return Drawn("learning", "learning", "loss and accuracy, nothing frozen", caption, draw, (9, 4.2))


def _memories(runs: Runs) -> Drawn:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, (name, label) in enumerate(RECALLS.items()):
            _curve(axes, runs, runs.measured(UNFROZEN, name), number, label)
        _fraction(axes, "recall, accuracy")
        legend_below(figure, axes, 2)

    return Drawn(
        *("memories", "memories", "what each matrix stores, step by step"),
        "Recall of each memory, read off the weights; bands are the range over seeds.",
        *(draw, (6.4, 4.8)),
    )


def _frozen(runs: Runs) -> Drawn:
    arms = {UNFROZEN: None} | {
        name: step for each, step in runs.settings.freezes.items() if (name := frozen_name(each, step)) in runs
    }

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axes, (name, step) in zip(all_axes, arms.items(), strict=True):
            for number, (quantity, label) in enumerate(RECALLS.items()):
                _curve(axes, runs, runs.measured(name, quantity), number, label)
            if step is not None and step < runs.at[-1]:
                released = axes.axvline(step, color=GREY, linewidth=1, linestyle=(0, (1, 1.5)))
                released.set_label("released")
            _fraction(axes, "recall, accuracy" if axes is all_axes[0] else "")
            axes.set_title(name, fontsize=11)
        _legend(figure, *all_axes)

    caption = "The same run with one matrix frozen at first; dotted: where it is released."
    return Drawn("frozen", "frozen", "what waits for what", caption, draw, (3.6 * len(arms) + 0.6, 4.4))


def _texts(runs: Runs) -> Drawn:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        for number, name in enumerate((UNFROZEN, ONE, RANDOM, RARE_ARM, BIGRAM, REDRAWN)):
            if name in runs:
                _curve(axes, runs, runs.measured(name, "accuracy"), number, name)
        _fraction(axes, "in-context accuracy")
        legend_below(figure, axes, 3)

    caption = "Accuracy by what the texts are like; arms of bigram outputs are tested on uniform ones."
    return Drawn("texts", "texts", "what the texts are like", caption, draw, (6.4, 4.8))


def _plans(runs: Runs) -> Drawn:
    arms = [name for name in (UNFROZEN, CONTROL) if name in runs]

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axes, name in zip(all_axes, arms, strict=True):
            for number, plan in enumerate(runs.settings.plans):
                _curve(axes, runs, runs.watched(name, plan).mean(axis=0, keepdims=True), number, plan)
            _fraction(axes, "in-context accuracy" if axes is all_axes[0] else "")
            axes.set_title(f"trained {'under 0 1' if name == UNFROZEN else name}", fontsize=11)
        _legend(figure, *all_axes)

    caption = "The same weights run under other plans while they are trained; means over seeds."
    return Drawn("plans", "plans", "layer plans during training", caption, draw, (4.5 * len(arms) + 0.4, 4.8))


def _attention(runs: Runs) -> Drawn:
    import jax

    from jaxpaint.birth.data import sample, source_of
    from jaxpaint.birth.model import attention_patterns
    from jaxpaint.birth.train import OF_TEST, key_of

    (group, arm), *_ = runs.places(UNFROZEN)
    parameters = jax.tree.map(lambda leaf: leaf[arm], group.parameters)
    batch = sample(
        source_of(runs.settings.data, for_test=True), key_of(group.arms[arm].seed, OF_TEST), 1, runs.settings.length
    )
    patterns = attention_patterns(runs.settings.model, parameters, batch.tokens)
    count = min(SHOWN_TOKENS, runs.settings.length)
    letters = [{"\n": "⏎", " ": "␣"}.get(each, each) for each in shipped().tokens]
    tokens, counters = np.asarray(batch.tokens[0, :count]), np.asarray(batch.counters[0, :count])

    def draw(figure: Figure) -> None:
        for number, (axes, pattern) in enumerate(zip(figure.subplots(1, 2), patterns, strict=True)):
            image = axes.imshow(np.asarray(pattern[0, :count, :count]), cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(count), [letters[token] for token in tokens], fontsize=7)
            axes.set_yticks(range(count), [letters[token] for token in tokens], fontsize=7)
            for label, counter in zip(axes.get_yticklabels(), counters, strict=True):
                if counter >= 2:
                    label.set(color=VERMILLION, fontweight="bold")
            axes.set(title=f"layer {number}", xlabel="attended to", ylabel="" if number else "position, downwards")
            axes.grid(visible=False)
        figure.colorbar(image, ax=figure.axes, shrink=0.7, label="attention")

    caption = "The trained model's attention in one text; bold: a trigger that has occurred before."
    return Drawn("attention", "attention", "what the two layers attend to", caption, draw, (10.5, 5.4))


def _legend(figure: Figure, *all_axes: Axes) -> None:
    """One legend of several axes, under them."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=min(4, len(entries)), fontsize=9
    )

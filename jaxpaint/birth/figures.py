"""The figures of a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxpaint.birth.counts import shipped
from jaxpaint.birth.findings import Runs
from jaxpaint.birth.run import Outcome
from jaxpaint.birth.settings import BIGRAM, FIRST_ALONE, ONE, RANDOM, RARE_ARM, REDRAWN, UNFROZEN, frozen_name
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
BEHAVIOUR = {
    "looks_back": "layer 0 looks back",
    "hits": "layer 1 hits",
    "looks_back_at_hits": "layer 0 looks back at hits",
    "copies": "copies what layer 1 found",
    "accuracy": "in-context accuracy",
}
MAPS = 5  # attention maps over training


def figures(outcome: Outcome) -> Iterator[Drawn]:
    """Those that there is something to draw for."""
    runs = outcome.runs
    yield _learning(runs)
    if runs.has("output"):
        yield _memories(runs)
    if runs.has("hits"):
        yield _behaviour(runs)
    if any(name.startswith("W_") for name in _names(runs)):
        yield _frozen(runs)
    if {ONE, RANDOM, RARE_ARM, BIGRAM} & set(_names(runs)):
        yield _texts(runs)
    if runs.settings.plans:
        yield _plans(runs)
    if FIRST_ALONE in runs and runs.settings.architecture == "general":
        yield _one_layer(runs)
    if _maps(runs):
        yield _attention(runs)
        yield _attention_over_steps(runs)


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
        _fractions(axes, runs, UNFROZEN, RECALLS)
        _fraction(axes, "recall, accuracy")
        legend_below(figure, axes, 2)

    return Drawn(
        *("memories", "memories", "what each matrix stores, step by step"),
        "Recall of each memory, read off the weights; bands are the range over seeds.",
        *(draw, (6.4, 4.8)),
    )


def _fractions(axes: Axes, runs: Runs, arm: str, labels: dict[str, str]) -> None:
    for number, (name, label) in enumerate(labels.items()):
        if runs.has(name):
            _curve(axes, runs, runs.measured(arm, name), number, label)


def _behaviour(runs: Runs) -> Drawn:
    arms = [name for name in (UNFROZEN, runs.settings.control) if name in runs]

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axes, name in zip(all_axes, arms, strict=True):
            _fractions(axes, runs, name, BEHAVIOUR)
            _fraction(axes, "share of test positions" if axes is all_axes[0] else "")
            axes.set_title(f"trained {_under(runs, name)}", fontsize=11)
        _legend(figure, *all_axes, columns=2 * len(arms))

    caption = "What attention finds in test texts, each arm under its own plan; bands are the range over seeds."
    return Drawn("behaviour", "behaviour", "what attention finds", caption, draw, (4.5 * len(arms) + 0.9, 4.8))


def _under(runs: Runs, name: str) -> str:
    return f"under {runs.settings.full}" if name == UNFROZEN else name


def _one_layer(runs: Runs) -> Drawn:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        labels = {UNFROZEN: f"{runs.settings.layers} layers", FIRST_ALONE: "one layer"}
        for number, (name, label) in enumerate(labels.items()):
            _curve(axes, runs, runs.measured(name, "accuracy"), number, label)
        _fraction(axes, "in-context accuracy")
        legend_below(figure, axes, 2)

    caption = "Accuracy of the whole model and of its first layer alone, trained alone; bands are the range over seeds."
    return Drawn("layers", "layers", "one layer and all", caption, draw, (6.4, 4.8))


def _frozen(runs: Runs) -> Drawn:
    arms = {UNFROZEN: None} | {
        name: step for each, step in runs.settings.freezes.items() if (name := frozen_name(each, step)) in runs
    }

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axes, (name, step) in zip(all_axes, arms.items(), strict=True):
            _fractions(axes, runs, name, RECALLS)
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
    arms = [name for name in (UNFROZEN, runs.settings.control) if name in runs]

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(1, len(arms), sharey=True, squeeze=False)[0]
        for axes, name in zip(all_axes, arms, strict=True):
            for number, plan in enumerate(runs.settings.plans):
                _curve(axes, runs, runs.watched(name, plan).mean(axis=0, keepdims=True), number, plan)
            _fraction(axes, "in-context accuracy" if axes is all_axes[0] else "")
            axes.set_title(f"trained {_under(runs, name)}", fontsize=11)
        _legend(figure, *all_axes)

    caption = "The same weights run under other plans while they are trained; means over seeds."
    return Drawn("plans", "plans", "layer plans during training", caption, draw, (4.5 * len(arms) + 0.4, 4.8))


def _maps(runs: Runs) -> dict[str, np.ndarray]:
    """Of the first arm with nothing frozen, by layer: [records, S, S]."""
    return next(iter(runs.groups.values())).maps


def _shown_text(runs: Runs) -> tuple[list[str], np.ndarray]:
    """The letters and counters of the text that maps are of."""
    from jaxpaint.birth.data import sample, source_of
    from jaxpaint.birth.train import OF_TEST, key_of

    group, settings = next(iter(runs.groups.values())), runs.settings
    rows = (group.training.test_rows, settings.length)
    batch = sample(source_of(settings.data, for_test=True), key_of(group.arms[0].seed, OF_TEST), *rows)
    count = next(iter(group.maps.values())).shape[1]
    letters = [{"\n": "⏎", " ": "␣"}.get(each, each) for each in shipped().tokens]
    return [letters[token] for token in np.asarray(batch.tokens[0, :count])], np.asarray(batch.counters[0, :count])


def _attention(runs: Runs) -> Drawn:
    text, counters = _shown_text(runs)

    def draw(figure: Figure) -> None:
        for number, (axes, (name, maps)) in enumerate(
            zip(figure.subplots(1, len(_maps(runs))), _maps(runs).items(), strict=True)
        ):
            image = axes.imshow(maps[-1], cmap="Blues", vmin=0, vmax=1)
            axes.set_xticks(range(len(text)), text, fontsize=7)
            axes.set_yticks(range(len(text)), text, fontsize=7)
            for label, counter in zip(axes.get_yticklabels(), counters, strict=True):
                if counter >= 2:
                    label.set(color=VERMILLION, fontweight="bold")
            axes.set(title=name, xlabel="attended to", ylabel="" if number else "position, downwards")
            axes.grid(visible=False)
        figure.colorbar(image, ax=figure.axes, shrink=0.7, label="attention")

    caption = "The trained model's attention in one text; bold: a trigger that has occurred before."
    return Drawn("attention", "attention", "what the two layers attend to", caption, draw, (10.5, 5.4))


def _attention_over_steps(runs: Runs) -> Drawn:
    maps = _maps(runs)
    records = np.unique(np.linspace(0, len(runs.at) - 1, MAPS).round().astype(int))

    def draw(figure: Figure) -> None:
        all_axes = figure.subplots(len(maps), len(records), sharex=True, sharey=True, squeeze=False)
        for axes_of_layer, (name, over_steps) in zip(all_axes, maps.items(), strict=True):
            for axes, record in zip(axes_of_layer, records, strict=True):
                image = axes.imshow(over_steps[record], cmap="Blues", vmin=0, vmax=1)
                axes.set_title(f"{name}, step {runs.at[record]}", fontsize=10)
                axes.grid(visible=False)
        figure.colorbar(image, ax=figure.axes, shrink=0.7, label="attention")

    caption = "The same text's attention while the model is trained: positions downwards, what they attend to across."
    return Drawn("steps", "steps", "attention over training", caption, draw, (2.4 * len(records) + 1.2, 5.4))


def _legend(figure: Figure, *all_axes: Axes, columns: int = 4) -> None:
    """One legend of several axes, under them."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()), list(entries), loc="outside lower center", ncols=min(columns, len(entries)), fontsize=9
    )

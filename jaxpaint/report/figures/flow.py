"""What blocking attention from the last token does, by steps of plans and by layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from jaxtyping import Float

from jaxpaint.report.figures.style import RC, band, look


@dataclass(frozen=True, eq=False)
class FlowCurves:
    """One plan's mean change in per cent with its standard error, [windows, sets], around each of `axis`."""

    plan: str
    axis: str
    value: Float[np.ndarray, "windows sets"]
    stderr: Float[np.ndarray, "windows sets"]


def flow_figure(curves: Sequence[FlowCurves], sets: Sequence[str], size: int, prompts: str, kind: str) -> bytes:
    """A file of `kind`: a panel for each of `curves`, two abreast, with one scale. Bands are two standard errors."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    with plt.rc_context(RC):
        rows = -(-len(curves) // 2)
        figure, panels = plt.subplots(rows, 2, figsize=(9.6, 3.2 * rows + 0.6), sharey=True, squeeze=False)
        for panel, each in zip(panels.flat, curves, strict=False):
            x = np.arange(len(each.value))
            for number, name in enumerate(sets):
                band(panel, x, each.value[:, number], 2 * each.stderr[:, number], look(number), name)
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.axhline(0, color="black", linewidth=0.6)
            panel.set_title(each.plan if len(each.plan) < 44 else f"{each.plan[:43]}…", fontsize=11)
            panel.set_xlabel(f"{each.axis} at the centre of {size} that are blocked")
        for panel in panels[:, 0]:
            panel.set_ylabel("change of the answer's\nprobability, per cent")
        for panel in panels.flat[len(curves) :]:
            panel.set_visible(False)
        panels[0, 0].legend(title="last token blocked from", fontsize=9, title_fontsize=9)
        figure.suptitle(f"Attention knocked out, mean over {prompts}, with two standard errors", fontsize=12)
        figure.tight_layout()
        content = BytesIO()
        figure.savefig(content, format=kind, dpi=150)
        plt.close(figure)
    return content.getvalue()

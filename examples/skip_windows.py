"""Which layers can be left out? Windows of one, two and four layers left out, scored on one task and drawn."""

import jaxpaint as jp

model = jp.load("painter-16")
windows = [range(first, first + width) for width in (1, 2, 4) for first in range(1, 15 - width)]
study = model.study([model.full_plan.without(*window) for window in windows], tasks="painter_places", limit=50)
print(study.frame().sort_values("value", ascending=False)[["plan", "cost", "value", "difference", "difference_stderr"]])
study.plot().savefig("skip_windows.png")

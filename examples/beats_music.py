"""How “Apple” comes about in SmolLM2, two examples in front: what it loses without parts of the prompt, by steps."""

import sys

import matplotlib.pyplot as plt

import jaxpaint as jp
from jaxpaint.analysis.asking import asked
from jaxpaint.analysis.facts import Fact
from jaxpaint.analysis.story import stories
from jaxpaint.results.flow import SETS

model = jp.load(sys.argv[1] if len(sys.argv) > 1 else "HuggingFaceTB/SmolLM2-135M")
fact = Fact("Beats Music is owned by", "Beats Music", "Apple")
to_ask = asked(model, [fact], before="YouTube is owned by Google. Instagram is owned by Facebook. ")
figure, panels = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
for panel, story in zip(panels, stories(model, to_ask, 0, ["0-29", "0-9 {10-19}*3 20-29"]), strict=True):
    print(f"{story.plan}: {story.answer!r}, probability {story.probability:.2f}")
    for name, change in zip(SETS, story.change.T, strict=True):
        panel.plot(change, label=f"without {name}")
    panel.set_title(f"{story.plan}: “{story.answer}” {story.probability:.2f}")
    panel.set(xlabel="around step", ylabel="change of its probability, per cent")
panels[0].legend()
figure.savefig("beats_music.png")

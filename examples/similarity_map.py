"""How alike a model's states are along its layers (the paper's Figure 3), in order and with a group in the middle."""

import matplotlib.pyplot as plt

import jaxpaint as jp

model = jp.load("painter-16")
plans = ["0-15", "0-3 {4-11}*2 12-15"]
texts = [f"question : what is the animal of {town} ? answer :" for town in ("lumor", "sopas", "tirud", "rapas")]
figure, panels = plt.subplots(1, 2, figsize=(9, 4))
for panel, plan, found in zip(panels, plans, jp.analyse(model, texts, plans), strict=True):
    panel.imshow(found.similarity, vmin=0, vmax=1)
    panel.set_title(f"{plan}, cosine of two states")
figure.savefig("similarity.png")

"""A state of one fact's run in another's, under another plan: from where does the answer follow it?"""

import jaxpaint as jp

model = jp.load("painter-16")
asked = {town: f"question : what is the animal of {town} ? answer :" for town in ("lumor", "sopas")}
donor = model.run(asked["sopas"], "0-15")
names = [model.tokenizer.decode([int(model.run(text).logits[0, -1].argmax())]) for text in asked.values()]
print(f"lumor has the {names[0]}, sopas the {names[1]}; sopas' states of the last token put into lumor's run:")
for layers, step in ((4, 4), (12, 6), (13, 7), (14, 8), (16, 10)):  # of the donor, and of the looped plan
    state = jp.Replace(what="state", value=donor.state(layers), steps=step, positions=-1)
    run = model.run(asked["lumor"], "0-3 {4-11}*2 12-15", state)
    said = model.tokenizer.decode([int(run.logits[0, -1].argmax())])
    print(f"  that after {layers:2} layers, after step {step:2}: {said}")

"""What each step of a plan would say, were it the last: the logit lens, of two plans."""

import jaxpaint as jp

model = jp.load("painter-16")
for plan in ("0-15", "0-3 {4-11}*2 12-15"):
    run = model.run("question : what is the animal of lumor ? answer :", plan)
    lens = run.logit_lens(3)
    print(f"plan {plan}")
    for number, label in enumerate(["embeddings", *(step.label for step in run.steps)]):
        print(f"  {label:12}", *(f"{model.tokenizer.decode([token]):8}" for token in lens.tokens[number, 0, -1]))

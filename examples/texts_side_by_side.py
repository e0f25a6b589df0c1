"""One prompt under three plans."""

import jaxpaint as jp

model = jp.load("painter-16")
prompt = "question : leo has 7 eggs . leo loses 5 eggs . leo doubles the eggs . how many eggs has leo ? answer :"
for text in model.generate(prompt, ["0-15", "0-3 {4-11}*2 12-15", "0-5 10-15"], max_new_tokens=14, stop=" #"):
    print(f"{text.plan!s:20} {text}")

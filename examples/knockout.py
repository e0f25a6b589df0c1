"""In which layers does a fact's subject reach the last token? Attention to it blocked, three layers at a time."""

import numpy as np

import jaxpaint as jp

model = jp.load("painter-16")
text = "question : what is the animal of lumor ? answer :"
plain = model.run(text)
answer = int(plain.logits[0, -1].argmax())
print("answer:", model.tokenizer.decode([answer]))
for first in range(0, 16, 2):
    blocked = jp.Knockout(queries=-1, keys=plain.positions("lumor"), layers=range(first, first + 3))
    logprob = model.run(text, None, blocked).logprobs(answer)[-1, 0, -1]
    print(f"layers {first:2} to {first + 2:2} blocked: probability {np.exp(logprob):.3f}")

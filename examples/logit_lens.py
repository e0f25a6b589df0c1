"""What each step of a looped plan would say next, were it the last: the logit lens."""

import jaxpaint as jp

run = jp.load("painter-16").run("question : what is the animal of lumor ? answer :", "0-3 {4-11}*2 12-15")
frame = run.frame()
print(frame[frame.position == frame.position.max()][["label", "lens_text", "lens_logprob", "norm"]].to_string())

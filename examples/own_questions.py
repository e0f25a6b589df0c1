"""Questions of one's own under three plans: a JSONL file is a task. SmolLM's plans: "0-29", "0-9 20-29", …"""

import json
import tempfile
from pathlib import Path

import jaxpaint as jp

questions = [("lumor", "animal", ["wolf", "hare"], 1), ("sopas", "animal", ["goat", "owl"], 0)]
rows = [{"question": f"question : what is the {kind} of {town} ? answer :", "choices": choices, "answer": right}
        for town, kind, choices, right in questions]  # fmt: skip
file = Path(tempfile.mkdtemp(), "mine.jsonl")
file.write_text("\n".join(map(json.dumps, rows)))

model = jp.load("painter-16")
study = model.study(["0-3 {4-11}*2 12-15", "0-3 12-15", "0-15"], tasks=jp.multiple_choice(file))
print(study.frame()[["plan", "value", "stderr", "difference"]])

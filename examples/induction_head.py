"""An induction head, born in a minute: what its matrices store while the accuracy in context rises."""

from jaxpaint.birth.arms import Arm
from jaxpaint.birth.model import SmallModel
from jaxpaint.birth.train import Training, train

model = SmallModel(width=128, length=32)
arms = [Arm("free"), Arm("frozen", frozen_until={"W_O2": 100})]
trained = train(model, arms, Training(steps=300, rows=32, learning_rate=0.1, every=50))

for number, arm in enumerate(arms):
    print(f"\n{arm.name:8} step  accuracy  output memory  previous-token memory")
    for record, step in enumerate(trained.at):
        measured = {name: curve[record, number] for name, curve in trained.measured.items()}
        print(f"{step:13}  {measured['accuracy']:8.2f}", end="")
        print(f"  {measured['output']:13.2f}  {measured['previous_token']:21.2f}")

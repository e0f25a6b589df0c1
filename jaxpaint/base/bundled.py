"""Where the model that comes with the package lies, and the tasks and other texts of its language."""

from pathlib import Path

MODEL = "painter-16"
FOLDER = (Path(__file__).parents[1] / "painter" / MODEL).resolve()
"""The checkpoint that `--model painter-16` names, an ordinary Hugging Face folder."""
TASKS = Path(__file__).parents[1] / "painter" / "tasks"
TO_TRAIN_ON = TASKS / "train"
"""Documents of these tasks' training splits, of files that are called like the tasks."""
CALIBRATION = Path(__file__).parents[1] / "painter" / "calibration.txt"
"""Texts, one a line, to measure that model on; of no task (`jaxpaint.painter.items`)."""

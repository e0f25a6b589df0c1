"""Where the model that comes with the package lies, and the tasks of its language."""

from pathlib import Path

MODEL = "painter-16"
FOLDER = (Path(__file__).parents[1] / "painter" / MODEL).resolve()
"""The checkpoint that `--model painter-16` names, an ordinary Hugging Face folder."""
TASKS = Path(__file__).parents[1] / "painter" / "tasks"

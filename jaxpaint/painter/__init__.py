"""painter-16, the model that comes with the package: its language, tasks and training.

The language is made up and procedural, so that anyone can train the model again: `python -m jaxpaint.painter.train`.
"""

"""Models under many plans at once: plans as programs, one walk, and scores. Never tasks, stores or training."""

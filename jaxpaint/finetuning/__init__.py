"""Decoders fine-tuned with a plan in place on a task's training examples, and scored as studies score."""

"""Layers and heads trained with a plan in place: losses, settings, checkpoints. Never what a study is about."""

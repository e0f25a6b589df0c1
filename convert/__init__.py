"""Foreign checkpoints into converted stores, and back."""

from convert.cache import config_for, store_for
from convert.composing import compose
from convert.to_gguf import export_gguf
from convert.to_huggingface import export
from convert.to_store import convert

__all__ = ["compose", "config_for", "convert", "export", "export_gguf", "store_for"]

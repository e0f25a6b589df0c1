"""Foreign checkpoints into converted stores, and back."""

from convert.cache import store_for
from convert.to_huggingface import export
from convert.to_store import convert

__all__ = ["convert", "export", "store_for"]

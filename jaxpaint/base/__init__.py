"""What every room needs and that knows nothing of models or plans; JAX is never imported on importing it."""

__version__ = "0.1.0"

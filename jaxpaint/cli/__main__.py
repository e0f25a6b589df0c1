"""`python -m jaxpaint.cli`."""

from jaxpaint.cli import script

script()

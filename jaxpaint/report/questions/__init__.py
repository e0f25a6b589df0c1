"""report/questions."""

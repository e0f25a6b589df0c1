"""What is kept of a study, in one SQLite file, and all of its SQL. Never JAX, nor how a score is computed or judged."""

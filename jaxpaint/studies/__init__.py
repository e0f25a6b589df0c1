"""Many plans on many tasks, until a results store has them all. Never a report, nor the options of a command."""

"""A search for layer plans: generations of plans, scored by a study's engine into a study's store."""

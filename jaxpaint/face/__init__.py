"""What Python's users hold in their hands: a model that can be run, looked into, scored and made to write."""

"""Layer plans as values: their nodes, text, drawing and families. Never arrays, nor anything of a model's weights."""

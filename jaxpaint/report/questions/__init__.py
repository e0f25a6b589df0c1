"""The numbers behind the answers to the paper's questions. Never a store, a figure or a page."""

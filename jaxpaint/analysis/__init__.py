"""What is measured on the hidden states along plans: a probe a file, and `states` which runs them."""

"""What is measured on the hidden states along plans: probes, and `states`, which runs them."""

"""What is measured of hidden states along plans: probes, and `states`, which runs them. Never a figure or an answer."""

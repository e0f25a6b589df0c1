"""What is measured of hidden states on the way through plans. Never what is made of it in figures or answers."""

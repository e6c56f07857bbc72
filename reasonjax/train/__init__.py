"""Training loops and what surrounds them."""

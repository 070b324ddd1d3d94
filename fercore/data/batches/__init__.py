"""Which samples a step draws, and the loaders that make batches of them."""

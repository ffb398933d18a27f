"""Small base models: the trained one of the closed world, and untrained ones for experiments."""

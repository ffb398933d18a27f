"""Small base models made by this project: the closed world's, and random ones for trials."""

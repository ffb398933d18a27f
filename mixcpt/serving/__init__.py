"""Serving what was made: a model that answers in the terminal, a folder that other tools load, a push to a hub."""

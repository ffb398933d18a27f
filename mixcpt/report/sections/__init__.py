"""Data of the sections of a run's page."""

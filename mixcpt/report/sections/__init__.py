"""Data for the sections of a run's page."""

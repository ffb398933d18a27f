"""Typed records of finished runs, comparisons, searches, plans and rounds."""

"""Typed readers and writers of finished runs, comparisons, searches, plans and rounds."""

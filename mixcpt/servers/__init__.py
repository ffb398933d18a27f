"""Prefect and MLflow servers, started and configured through their command lines."""

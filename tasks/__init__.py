"""Thin Prefect tasks around the stages of mixcpt, and the only code that talks to MLflow."""

"""Questions and texts: reading, splitting and defining tasks, and asking a model through lm-eval."""

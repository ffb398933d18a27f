"""Questions and texts: read, split and define the tasks, and run them on a model through lm-eval."""

"""Rounds of re-adaptation: corpora that arrive, what a round reads of them, and whether its model may serve."""

"""Rounds of re-adaptation: the register of corpora, the plan of a round, and the gates before a model is served."""

"""Statistics over answers: intervals, differences, retention, seeds, and the state of every fact."""

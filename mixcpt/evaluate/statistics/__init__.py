"""Statistics of evaluations: intervals, differences, retention, changes over seeds, and the state of every fact."""

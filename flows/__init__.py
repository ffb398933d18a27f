"""Flows: they call tasks in order and contain no other logic."""

from tasks.logs import hide_routine_hooks, hide_tracebacks_of_deliberate_errors

hide_routine_hooks()
hide_tracebacks_of_deliberate_errors()  # here, because the command line and workers import this package

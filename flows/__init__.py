"""How the tasks follow each other; composition alone."""

from tasks.logs import hide_routine_hooks, hide_tracebacks_of_foreseen_errors

hide_routine_hooks()
hide_tracebacks_of_foreseen_errors()  # here, for whoever runs a flow imports it: the command line and a worker alike

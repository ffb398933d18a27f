"""How the tasks follow each other; composition alone."""

from tasks.logs import hide_tracebacks_of_foreseen_errors, keep_forwarded_lines_off_the_terminal

keep_forwarded_lines_off_the_terminal()
hide_tracebacks_of_foreseen_errors()  # here, for whoever runs a flow imports it: the command line and a worker alike

"""Flows: they call tasks in order and contain no other logic."""

from tasks.hooks import filter_run_logs

filter_run_logs()  # here, because the command line and workers import this package

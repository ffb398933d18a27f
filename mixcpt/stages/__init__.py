"""The stages of an adaptation: their table and order, jobs as plain data, and the worker process that runs them."""

"""The stages of an adaptation: one table of them, jobs as data, their order, and the process that runs them."""

"""How the tasks follow each other; composition alone."""

"""Use a finished model: chat in the terminal, export to a folder for other tools, push to a hub."""

"""Published artifacts with their identity and lineage, model folders, and files of measurements."""

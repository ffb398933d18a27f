"""The artifact store: published results, their identity and lineage, model folders, and metric spools."""

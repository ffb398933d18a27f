"""Reports of finished runs: page, table, figures and model card, made only from stored artifacts."""

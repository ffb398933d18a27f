"""Checks of a run before any work: model folder, tokenizer, template, packing, sources, samples, questions, settings."""

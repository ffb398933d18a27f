"""Checks before any work: model, tokenizer, template, packing, sources, samples, questions and settings."""

"""Curation: turn raw records into clean ones, with a reason for every rejected record. It imports no torch."""

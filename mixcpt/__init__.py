"""Teach an open-weight language model a new domain without losing what it already knows."""

__version__ = "0.1.0"

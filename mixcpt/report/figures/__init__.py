"""Figures of the report, drawn with matplotlib and written as SVG."""

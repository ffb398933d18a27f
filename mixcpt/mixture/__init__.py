"""The mixture: one plain text form for every pool, exact token weights, packed rows. It imports no torch."""

"""What a run shows when it is over: one page, its table and its pictures, made from stored artifacts alone."""

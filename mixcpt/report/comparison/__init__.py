"""Numbers, texts and pages of comparisons and of searches for a mixture."""

"""Pages of comparisons and of mixture searches."""

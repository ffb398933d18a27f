"""Merging: combines models of one architecture weight by weight, shard by shard, without any training."""

"""What a run will take, before anything is spent: tokens, operations, memory, disk, time; needs no torch to import."""

"""Runs compiled programs: parameters, arena, training, generation, checkpoints. Knows no MLIR and no frontend."""

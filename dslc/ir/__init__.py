"""The nn dialect: one class an op with everything that is known about it, index maps, numpy reference semantics, kernels."""

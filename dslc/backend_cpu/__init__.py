"""Kernels → vector and scf → LLVM → one native function a program."""

"""Kernels → CUDA C++, one readable file a program."""

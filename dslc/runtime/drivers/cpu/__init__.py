"""The CPU driver: maps a program's object code, keeps the pool of threads, runs programs. Linux on x86-64."""

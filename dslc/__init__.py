"""dslc: a declarative neural-network compiler. A model is one small file of equations; this package compiles, trains and runs it."""

from .core.errors import Error

__version__ = "0.1.0"
__all__ = ["Error"]

"""ONNX graphs in the nn dialect: a reader that trusts nothing, one table of operators, and graphs as models and layers."""

"""nn → nn: one file a pass. A pass is a frozen dataclass whose fields are its options and whose `run(module)` changes the module."""

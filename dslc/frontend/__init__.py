"""From text to the nn dialect: the grammar, the syntax tree, the YAML form, elaboration, the library of layers."""

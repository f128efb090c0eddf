"""The operators, by group. Each function builds one or more operators of the table from a call and its inputs."""

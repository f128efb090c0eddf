"""The operators, by group; importing a module enters its operators into the table."""

"""The words of the field: states, machines, values, pure rules and the few ports."""

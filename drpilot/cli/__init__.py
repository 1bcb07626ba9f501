"""The terminal: what people type and read. No rule lives here, and nothing heavy is imported before it is needed."""

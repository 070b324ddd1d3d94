"""Built-in defaults and the source_only baseline."""

"""Which level a search drives next, and what it has found. Pure."""

"""Floor 6: why monosemantic features behave as they do."""

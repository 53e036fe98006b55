"""Floor 3: images -> dense features."""

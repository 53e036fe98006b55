"""Floor 1: pure functions on arrays. How monosemantic, how sparse and of what shape features are."""

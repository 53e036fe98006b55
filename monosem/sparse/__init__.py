"""Floor 4: dense features into sparse, monosemantic codes."""

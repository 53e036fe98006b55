"""Floor 7: what a recipe runs. Files are named after the question they ask."""

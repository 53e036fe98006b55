"""Floor 0: what every other floor stands on. Nothing here knows what a feature is."""

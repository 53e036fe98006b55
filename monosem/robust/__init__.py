"""Floor 5: what robustness means. Probes, the losses they train with, and the controls beside them."""

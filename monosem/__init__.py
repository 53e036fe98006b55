"""Do monosemantic features make a model more robust? Measure it honestly, and ship what wins."""

__version__ = "0.1.0"

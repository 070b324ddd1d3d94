"""Adaptation that keeps to what a source model knows: fercore's own method, of parts that other methods have proved."""

"""LEAF for fercore (Zhang et al., "Unveiling Two Sides of the Same Coin in Semi-supervised FER", 2024)."""

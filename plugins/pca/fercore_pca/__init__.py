"""PCA for fercore (IEEE SPL 2025): CLIP with prompts and two feature banks; CLIP's reference methods beside it."""

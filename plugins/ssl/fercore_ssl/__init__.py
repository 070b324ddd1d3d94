"""Semi-supervised baselines: one small module each. The source side is labelled, the target is not."""

"""The engine: training, evaluation, checkpoints and records of a run."""

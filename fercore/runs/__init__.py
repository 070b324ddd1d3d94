"""The run folder on disk: its files and its checkpoints."""

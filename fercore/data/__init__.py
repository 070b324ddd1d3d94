"""Datasets, labels, views and loaders."""

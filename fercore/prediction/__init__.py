"""Trained models that predict without the data they were trained on."""

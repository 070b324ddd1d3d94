"""Adaptation from several labelled sources, which are kept apart."""

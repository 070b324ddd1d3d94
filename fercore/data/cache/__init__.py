"""Decoded images kept in memory or on disk, and what the preflight found of files."""

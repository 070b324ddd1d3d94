"""Offline tools for datasets: check, prepare, convert, protocols, published facts."""

"""From a dataset that has been read to what trains, adapts and tests."""

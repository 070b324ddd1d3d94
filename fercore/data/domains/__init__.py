"""From a dataset that has been found to what trains, adapts and tests."""

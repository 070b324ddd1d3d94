"""From the points of a face to pixels."""

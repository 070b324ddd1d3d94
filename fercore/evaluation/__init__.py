"""What a trained network says of whole datasets, and how good that is."""

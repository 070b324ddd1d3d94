"""Many runs: methods over seeds, side by side."""

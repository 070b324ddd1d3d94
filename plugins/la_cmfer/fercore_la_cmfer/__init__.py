"""LA-CMFER for fercore (Yang et al., "Learning with Alignments", ACM MM 2024)."""

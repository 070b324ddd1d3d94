"""Test-time adaptation: one pass over a stream, each batch answered first and adapted to afterwards."""

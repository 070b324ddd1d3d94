"""From data and a time to a model that is believed to be better than the one there was, or that one itself.

`look` at the data, lay out a `plan` inside a `budget`, `race` a portfolio of methods, and `ship` one of them.
"""

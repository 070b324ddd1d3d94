"""Baselines of unsupervised domain adaptation: one labelled side, one unlabelled, a term or two between them."""

"""AdaFER: AU-guided unsupervised adaptation of facial-expression recognition, as a fercore plugin."""

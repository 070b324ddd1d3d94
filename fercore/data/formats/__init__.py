"""The dataset formats, one small module each; `fercore.data.spec.FORMATS` says which module reads which."""

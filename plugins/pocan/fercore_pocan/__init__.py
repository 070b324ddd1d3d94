"""POCAN for fercore (ACCV 2022): source pretraining, then two players around learnable prototypes."""

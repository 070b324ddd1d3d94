"""Retrieval by action-unit code and by feature: exact joins, FAISS indexes, feature banks, mined triplets."""

from __future__ import annotations

from fercore.retrieval.au_index import AUIndex, Matches
from fercore.retrieval.bank import FeatureBank
from fercore.retrieval.codes import code_keys, pack_codes
from fercore.retrieval.join import CodeJoin, join_codes
from fercore.retrieval.labels import Neighbours, code_histogram, last_match, majority, neighbour_codes, random_match
from fercore.retrieval.mining import Triplets, au_similarity, mine_triplets

__all__ = [
    "AUIndex",
    "CodeJoin",
    "FeatureBank",
    "Matches",
    "Neighbours",
    "Triplets",
    "au_similarity",
    "code_histogram",
    "code_keys",
    "join_codes",
    "last_match",
    "majority",
    "mine_triplets",
    "neighbour_codes",
    "pack_codes",
    "random_match",
]

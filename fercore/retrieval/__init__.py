"""Retrieval by action-unit code and by feature: exact joins, FAISS indexes, feature banks, mined triplets."""

from __future__ import annotations

from fercore.retrieval.codes import code_keys, pack_codes
from fercore.retrieval.join import CodeJoin, join_codes

__all__ = ["CodeJoin", "code_keys", "join_codes", "pack_codes"]

"""SPEC texts: the one place that reads and writes them."""

from fercore.data.spec.domain_spec import (
    COMMON_OPTIONS,
    HOW_MANY,
    SPLITS,
    DomainSpec,
    asks_for_few,
    option_name,
    parse_spec,
    spec_text,
    split_spec,
)

__all__ = [
    "COMMON_OPTIONS",
    "HOW_MANY",
    "SPLITS",
    "DomainSpec",
    "asks_for_few",
    "option_name",
    "parse_spec",
    "spec_text",
    "split_spec",
]

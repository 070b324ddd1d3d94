"""SPEC texts: the one place that reads and writes them, and what a run's specs come to."""

from fercore.data.spec.domain_spec import (
    COMMON_OPTIONS,
    HOW_MANY,
    SPLITS,
    DomainSpec,
    absolute_units,
    as_spec,
    folder_or_spec,
    is_spec,
    option_name,
    parse_spec,
    spec_text,
)
from fercore.data.spec.format_table import FORMATS, Format
from fercore.data.spec.task_spec import EvaluationSpec, TaskSpec, ValidationSpec

__all__ = [
    "COMMON_OPTIONS",
    "FORMATS",
    "HOW_MANY",
    "SPLITS",
    "DomainSpec",
    "EvaluationSpec",
    "Format",
    "TaskSpec",
    "ValidationSpec",
    "absolute_units",
    "as_spec",
    "folder_or_spec",
    "is_spec",
    "option_name",
    "parse_spec",
    "spec_text",
]

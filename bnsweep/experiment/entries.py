"""What the entries of a spec are made of: numbers within their ranges, and mappings without unknown keys."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

__all__ = [
    "ACCELERATOR",
    "DATASET",
    "NAME",
    "PATTERNS",
    "Count",
    "Eta",
    "Frozen",
    "Number",
    "Precision",
    "Seed",
    "Trials",
    "Whole",
    "form",
    "in_short",
    "listed",
]


def _no_word(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted here, but this is {str(value).lower()} (YAML reads yes and no as such)")
    return value


Precision = Literal["fp32", "bf16"]
Whole = Annotated[int, BeforeValidator(_no_word)]
Number = Annotated[float, BeforeValidator(_no_word)]
Eta = Annotated[
    Decimal,
    Field(ge=0, le=100, max_digits=9, decimal_places=6),
    WithJsonSchema({"type": "number", "minimum": 0, "maximum": 100}),
]
Count = Annotated[Whole, Field(ge=1, le=1_000_000_000)]
Trials = Annotated[Whole, Field(ge=1, le=1_000_000)]
Seed = Annotated[Whole, Field(ge=0, lt=2**63)]


NAME, DATASET, ACCELERATOR = r"^[A-Za-z0-9][\w.-]{0,63}$", r"^[\w.+-]{1,100}$", r"^[\w.-]{1,60}$"
PATTERNS = {
    NAME: "1 to 64 letters, digits, `_`, `.` and `-` without blanks, a letter or digit first",
    DATASET: "1 to 100 letters, digits, `_`, `.`, `+` and `-` without blanks",
    ACCELERATOR: "1 to 60 letters, digits, `_`, `.` and `-` without blanks",
}


class Frozen(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def form(value: Any) -> str:
    """Which member of a union was meant, so that only its errors are reported."""
    return "mapping" if isinstance(value, (dict, BaseModel)) else "word" if isinstance(value, str) else "number"


def in_short(value: Any) -> str:
    """As Python writes it, in at most 80 characters: for messages."""
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."


def listed(value: Any) -> Any:
    """A single value stands for a list of one."""
    return value if isinstance(value, (list, tuple)) else [value]

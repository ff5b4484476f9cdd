"""What the entries of a spec are made of: numbers within their ranges, and mappings without unknown keys."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

__all__ = ["Count", "Eta", "Frozen", "Seed", "Trials"]


def _no_word(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"a number is wanted here, but this is {str(value).lower()} (YAML reads yes and no as such)")
    return value


Eta = Annotated[Decimal, Field(ge=0, le=100, max_digits=9, decimal_places=6)]
Count = Annotated[int, BeforeValidator(_no_word), Field(ge=1, le=1_000_000_000)]
Trials = Annotated[int, BeforeValidator(_no_word), Field(ge=1, le=1_000_000)]
Seed = Annotated[int, BeforeValidator(_no_word), Field(ge=0, lt=2**63)]


class Frozen(BaseModel):
    """Immutable; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

"""Base class of every configuration model: frozen, strict, unknown keys refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(gt=0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Model(BaseModel):
    """A frozen configuration value; ``extra="forbid"`` and no silent type conversion."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Documented(Model):
    """A configuration section that says where its numbers come from.

    ``sources`` maps a field path, relative to this section, to ``"<trust>: <where it comes from>"``. A path covers
    everything below it. The trust words are `TRUST_WORDS`.
    """

    sources: dict[str, str] = Field(
        default_factory=dict,
        description="field path -> '<trust>: <origin>'; trust is datasheet, paper, code, derived, recalled, assumed or fitted",
    )


TRUST_WORDS = ("datasheet", "paper", "code", "derived", "recalled", "assumed", "fitted")

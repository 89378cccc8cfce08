"""Fields of files that people write, for pydantic models; judged as the command line judges them."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from utilctl_common.errors import UsageError
from utilctl_common.quantities import check_cores, check_share


class StrictModel(BaseModel):
    """Unknown keys and values of another type are refused; nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def number(value: object) -> object:
    """YAML 1.1 reads 1e3 as a text; people mean a number."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _cores(value: float) -> float:
    try:
        return check_cores(value, "")
    except UsageError as error:
        raise ValueError(str(error).strip()) from None


def _share(value: float) -> float:
    try:
        return check_share(value)
    except UsageError as error:
        raise ValueError(str(error)) from None


def check_path(name: str) -> str:
    """Return ``name`` if no part of it is empty; raise ValueError otherwise."""
    if not all(name.split("/")):
        raise ValueError(f"service name {name!r} has an empty part; write for example svc=web/class=gold")
    return name


Cores = Annotated[float, BeforeValidator(number), AfterValidator(_cores)]
Share = Annotated[float, BeforeValidator(number), AfterValidator(_share)]

"""Values of JSON: what reports are made of, and what is read from files of this package.

A report is read by keys, and the type of each is in its schema (docs/schemas), where a checker of
types cannot see it. These are therefore the only names behind which a value may have any type. What
a user wrote is read through `galaxy_mpi.fields` instead, which checks types.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Json", "JsonObject", "JsonView"]

Json: TypeAlias = Any
"""A value."""

JsonObject: TypeAlias = dict[str, Json]
"""An object of JSON."""

JsonView: TypeAlias = Mapping[str, Json]
"""An object of JSON that is only read."""

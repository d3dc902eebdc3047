# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""A list that does not grow with the bag: everything is counted, the first few are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

NAMED = 20


@dataclass
class Listing:
    """What was left out of something: how many, and what the first `NAMED` of them were."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < NAMED:
            self.first.append(text)

    def to_json(self) -> dict[str, Any]:
        """`count`, `first` and how many are not named, as plain data."""
        return {'count': self.count, 'first': self.first, 'not_named': self.count - len(self.first)}

"""What a hostile file is, and the lists of them; `tests/security/hostile_*.py` fill `FILES`."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from world import Case, report_made


class Hostile(NamedTuple):
    """A file, what plants it, what uses it, and whether it has to be refused."""

    name: str
    plant: Callable[[Case], object]
    use: Callable[[Case], object]
    refused: bool = False
    always: bool = False  # with the default tests, however long it takes

    @property
    def is_quick(self) -> bool:
        """Whether it belongs to the default tests: those that are used without harm train or evaluate a model."""
        return self.refused or self.use is report_made or self.always


FILES: list[Hostile] = []


def add(
    name: str,
    plant: Callable[[Case], object],
    use: Callable[[Case], object],
    *,
    refused: bool = False,
    always: bool = False,
) -> None:
    """Appends a hostile file to `FILES`."""
    FILES.append(Hostile(name, plant, use, refused, always))


def nothing(case: Case) -> None:
    """Plants nothing: the use itself brings the file."""

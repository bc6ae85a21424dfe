"""What differs between two configurations: what a reload has to do, and what it tells."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Generic, Protocol, TypeVar


class INamed(Protocol):
    """A dataclass with a name that is its own, like a service or a gateway."""

    @property
    def name(self) -> str:
        """Its name."""


N = TypeVar("N", bound=INamed)


def differing(old: object, new: object) -> tuple[str, ...]:
    """The fields in which two objects of one dataclass differ, in the order of the class."""
    return tuple(
        field.name
        for field in fields(old)  # type: ignore[arg-type]  # dataclasses have no type of their own
        if getattr(old, field.name) != getattr(new, field.name)
    )


@dataclass(frozen=True)
class Changes(Generic[N]):
    """
    What became of things with names: *changed* has the new one of each that differs, and *keys*
    in what.
    """

    added: tuple[N, ...]
    removed: tuple[N, ...]
    changed: tuple[N, ...]
    keys: Mapping[str, tuple[str, ...]]

    def lines(self, what: str, without: Container[str] = ()) -> list[str]:
        """
        One line for each change, for the log and for whoever ordered the reload; none for the names
        *without*, of which nothing came.
        """
        told = {each.name: "added" for each in self.added}
        told |= {each.name: "removed" for each in self.removed}
        told |= {each.name: f"changed ({', '.join(self.keys[each.name])})" for each in self.changed}
        return [f"{what} {name}: {how}" for name, how in told.items() if name not in without]


def compare(old: Iterable[N], new: Iterable[N]) -> Changes[N]:
    """The changes from *old* to *new*; names are unique in each."""
    before = {each.name: each for each in old}
    after = {each.name: each for each in new}
    keys = {
        name: differing(before[name], each)
        for name, each in after.items()
        if name in before and before[name] != each
    }
    return Changes(
        added=tuple(each for name, each in after.items() if name not in before),
        removed=tuple(each for name, each in before.items() if name not in after),
        changed=tuple(after[name] for name in keys),
        keys=keys,
    )

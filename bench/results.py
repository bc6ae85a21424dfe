"""All figures of one run, and what is made of them: medians and spreads."""

from __future__ import annotations

from statistics import median

from bench.loads import Figures
from bench.peers import Peer
from bench.processes import BenchError


class Results:
    """
    The rounds of each of *peers*, on *machine*; peers that are not there, with the reason.

    *most_idle* is the largest number of idle sessions that were asked of each.
    """

    def __init__(self, machine: dict[str, str], peers: list[Peer], most_idle: int) -> None:
        self.machine = machine
        self.most_idle = most_idle
        self.peers = peers
        self.versions: dict[str, str] = {}
        self.missing: dict[str, str] = {}
        self.failures: dict[str, list[str]] = {}
        self.rounds: dict[str, list[Figures]] = {peer.name: [] for peer in peers}
        self.seconds = 0.0
        for peer in peers:
            try:
                self.versions[peer.name] = peer.version()
            except BenchError as error:
                self.missing[peer.name] = str(error)

    def add(self, peer: Peer, figures: Figures) -> None:
        """A round of *peer* has given these figures."""
        self.rounds[peer.name].append(figures)

    def failed(self, peer: Peer, reason: str) -> None:
        """A round of *peer* has failed."""
        self.failures.setdefault(peer.name, []).append(reason)

    def values(self, peer: str, figure: str) -> list[float]:
        """All values of a figure, one for each round that has it."""
        return [each[figure] for each in self.rounds.get(peer, []) if figure in each]

    def median(self, peer: str, figure: str) -> float | None:
        """The median of a figure over the rounds; None where there is none."""
        values = self.values(peer, figure)
        return median(values) if values else None

    def spread(self, peer: str, figure: str) -> float | None:
        """Half the distance between the extremes, as a share of the median."""
        middle = self.median(peer, figure)
        values = self.values(peer, figure)
        return (max(values) - min(values)) / 2 / middle if middle else None

    def names(self, peer: str) -> list[str]:
        """The names of all figures of *peer*."""
        return list(dict.fromkeys(name for each in self.rounds[peer] for name in each))

"""Bans: networks that may not come for a while, set by hand or by a rule, and run out by
themselves.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from heapq import heappop, heappush
from ipaddress import ip_address

from relaygate.networks import Network

MAX_BANS = 10_000
# Nobody is forgotten in a table for longer.
MAX_BAN_S = 30 * 24 * 3600
# Sources whose offences are counted at once, each with as many times as make a ban.
MAX_SUSPECTS = 10_000
# So many refusals cost nothing: people mistype.
FREE_REFUSALS = 3
# Seconds that a password waits at most (RFC 2577, section 5, has five).
MAX_WAIT_S = 5.0
# Seconds behind its last refusal after which a source begins anew.
FORGIVEN_S = 300.0

_Key = tuple[int, int, int]


class TooManyBans(Exception):
    """The table of bans is full."""


class Bans:
    """The bans that hold; each look-up costs one step for each length of prefix in use."""

    def __init__(self, limit: int = MAX_BANS) -> None:
        self._limit = limit
        self._until: dict[_Key, float] = {}
        # Until when, by who has set it.
        self._by: dict[_Key, dict[str, float]] = {}
        self._ends: list[tuple[float, _Key]] = []
        self._prefixes: Counter[tuple[int, int]] = Counter()

    def __len__(self) -> int:
        return len(self._until)

    def demand_room(self, networks: Iterable[Network], now: float) -> None:
        """Raises :class:`TooManyBans` if not all of *networks* could be banned at *now*."""
        self._run_out(now)
        new = {_key(network) for network in networks} - self._until.keys()
        if len(self._until) + len(new) > self._limit:
            raise TooManyBans(f"there are {len(self._until)} bans already, of {self._limit}")

    def add(self, network: Network, seconds: float, now: float, by: str = "") -> None:
        """
        Ban *network* for *seconds* from *now*, in the place of what *by* has set for the very same;
        of several that set it, the one who means it for longest counts.

        Raises :class:`TooManyBans`.
        """
        self._run_out(now)
        key = _key(network)
        until = now + min(seconds, MAX_BAN_S)
        if key not in self._until:
            if len(self._until) >= self._limit:
                raise TooManyBans(f"there are {self._limit} bans already")
            self._prefixes[key[:2]] += 1
            self._by[key] = {}
        self._by[key][by] = until
        until = self._until[key] = max(self._by[key].values())
        heappush(self._ends, (until, key))
        if len(self._ends) > 2 * len(self._until) + 64:
            # Renewed again and again: what is outdated in the heap goes.
            self._ends = sorted((until, key) for key, until in self._until.items())

    def remove(self, network: Network) -> bool:
        """Lift the ban of the very same *network*; whether there was one."""
        return self._forget(_key(network))

    def hold(self, address: str, now: float) -> bool:
        """Whether *address* is banned at *now*."""
        if not self._until:
            return False
        self._run_out(now)
        literal = ip_address(address.partition("%")[0])
        number, version = int(literal), literal.version
        return any(
            (version, prefix, number >> literal.max_prefixlen - prefix) in self._until
            for of, prefix in self._prefixes
            if of == version
        )

    def rows(self, now: float) -> list[tuple[str, float]]:
        """Every ban that holds: the network, and the seconds that are left."""
        self._run_out(now)
        return [(_shown(key), until - now) for key, until in self._until.items()]

    def _run_out(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            until, key = heappop(self._ends)
            if self._until.get(key) == until:
                self._forget(key)

    def _forget(self, key: _Key) -> bool:
        if self._until.pop(key, None) is None:
            return False
        del self._by[key]
        self._prefixes[key[:2]] -= 1
        if not self._prefixes[key[:2]]:
            del self._prefixes[key[:2]]
        return True


def _key(network: Network) -> _Key:
    shift = network.max_prefixlen - network.prefixlen
    return network.version, network.prefixlen, int(network.network_address) >> shift


def _shown(key: _Key) -> str:
    version, prefix, number = key
    longest = 32 if version == 4 else 128
    packed = (number << longest - prefix).to_bytes(longest // 8)
    address = str(ip_address(packed))
    return address if prefix == longest else f"{address}/{prefix}"


class Offences:
    """Counts what each source does wrong: *most* times within *within_s* seconds is too often."""

    def __init__(self, most: int, within_s: float) -> None:
        self._most = most
        self._within_s = within_s
        self._times: OrderedDict[str, deque[float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._times)

    def count(self, source: str, now: float) -> bool:
        """*source* has done it again; whether that was once too often, and it begins anew."""
        times = self._times.pop(source, None) or deque(maxlen=self._most)
        times.append(now)
        if len(times) == self._most and now - times[0] <= self._within_s:
            return True
        while self._times:
            oldest = next(iter(self._times))
            forgotten = now - self._times[oldest][-1] > self._within_s
            if not forgotten and len(self._times) < MAX_SUSPECTS:
                break
            del self._times[oldest]
        self._times[source] = times
        return False


class Penance:
    """How long the next password of a source waits, that was refused so often: 1, 2, 4, 5 s."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def refused(self, source: str, now: float) -> None:
        """A password of *source* was refused."""
        times = self._times(source, now) + 1
        self._known.pop(source, None)
        while self._known:
            _, last = self._known[oldest := next(iter(self._known))]
            if now - last <= FORGIVEN_S and len(self._known) < MAX_SUSPECTS:
                break
            del self._known[oldest]
        self._known[source] = times, now

    def pardon(self, source: str) -> None:
        """A password of *source* was right: others behind its address are not to wait."""
        self._known.pop(source, None)

    def wait_s(self, source: str, now: float) -> float:
        """Seconds for which the next password of *source* is to wait."""
        over = self._times(source, now) - FREE_REFUSALS
        return min(2.0 ** min(over, 10), MAX_WAIT_S) if over >= 0 else 0.0

    def _times(self, source: str, now: float) -> int:
        times, last = self._known.get(source, (0, now))
        return times if now - last <= FORGIVEN_S else 0

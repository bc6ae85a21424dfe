"""
Three networks on one machine: *outside*, *dmz* and *private*, as network namespaces.

On a single loopback address a gateway that does nothing passes every test, because client and
server reach each other without it. Here they cannot: only ``dmz`` has a wire to both of the others,
nobody forwards, and ``private`` drops and counts whatever tries to come in, as its firewall would::

    outside 203.0.113.2 ---- 203.0.113.1 dmz 198.18.0.1 ---- 198.18.0.2 private

An interface is named after the place at its other end. The calls here run ``ip`` and ``nft`` and
block for some milliseconds each: use them in set-up, clean-up and between two waits.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NoReturn
from unittest import SkipTest

Place = Literal["outside", "dmz", "private"]
PLACES: Final[tuple[Place, ...]] = ("outside", "dmz", "private")

REQUIRE_ALL: Final = "RELAYGATE_REQUIRE_ALL"
_PREFIX: Final = "relaygate"
_NAME: Final = re.compile(rf"{_PREFIX}-(\d+)-\w+-\w+")
_COMMAND_TIMEOUT_S: Final = 10.0
_numbers = itertools.count(1)

# A TCP attempt is a lone SYN, told by its flags and not by connection tracking: a late packet of a
# connection that tracking has forgotten would look new, and would be counted against the gateway.
_GUARD = """
table inet guard {
  counter inbound_attempts { }
  chain arriving {
    type filter hook input priority filter; policy accept;
    iifname "dmz" tcp flags & (fin|syn|rst|ack) == syn counter name inbound_attempts drop
    iifname "dmz" meta l4proto udp ct state new counter name inbound_attempts drop
  }
}
"""

# Packets are dropped where they arrive, so the sender notices as little as on a cut wire.
_CUT_ALL = """
table inet cut_{peer} {{
  chain arriving {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{peer}" drop
  }}
}}
"""

# As a firewall does that has lost its table: only connections whose SYN it sees from now on pass.
_CUT_ESTABLISHED = """
table inet cut_{peer} {{
  chain arriving {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{peer}" tcp flags & (syn|ack) == syn ct mark set 1
    iifname "{peer}" meta l4proto tcp ct mark != 1 drop
  }}
  chain leaving {{
    type filter hook output priority mangle; policy accept;
    oifname "{peer}" tcp flags & (syn|ack) == syn ct mark set 1
  }}
}}
"""


@dataclass(frozen=True)
class _End:
    """One end of a wire."""

    place: Place
    v4: str
    v6: str
    mac: str


_OUTSIDE: Final = _End("outside", "203.0.113.2", "fd52:4701::2", "02:00:00:00:01:02")
_DMZ_OUTER: Final = _End("dmz", "203.0.113.1", "fd52:4701::1", "02:00:00:00:01:01")
_DMZ_INNER: Final = _End("dmz", "198.18.0.1", "fd52:4702::1", "02:00:00:00:02:01")
_PRIVATE: Final = _End("private", "198.18.0.2", "fd52:4702::2", "02:00:00:00:02:02")


class Network:
    """
    The three namespaces of one test.

    Use :func:`require` first, then :meth:`create`, and give :meth:`destroy` to the test's clean-up
    before calling it. Several networks of one process, or of several, live beside each other.
    """

    outside_address: Final = _OUTSIDE.v4
    outside_address_v6: Final = _OUTSIDE.v6
    dmz_outer_address: Final = _DMZ_OUTER.v4
    dmz_outer_address_v6: Final = _DMZ_OUTER.v6
    dmz_inner_address: Final = _DMZ_INNER.v4
    dmz_inner_address_v6: Final = _DMZ_INNER.v6
    private_address: Final = _PRIVATE.v4
    private_address_v6: Final = _PRIVATE.v6

    def __init__(self) -> None:
        number = next(_numbers)
        self._names = {place: f"{_PREFIX}-{os.getpid()}-{number}-{place}" for place in PLACES}
        self._cuts: list[tuple[Place, Place]] = []
        self._children: list[subprocess.Popen[bytes]] = []

    def create(self) -> None:
        """Make namespaces and wires; raises ``CalledProcessError`` if the kernel will not."""
        remove_leftovers()
        for name in self._names.values():
            _command(["ip", "netns", "add", name])
        self._wire(_OUTSIDE, _DMZ_OUTER)
        self._wire(_PRIVATE, _DMZ_INNER)
        for place in PLACES:
            self._ip(place, "link set lo up")
        # A new namespace may inherit forwarding from the machine (a container host has it on).
        forwarding = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")
        self.run("dmz", ["sh", "-c", "; ".join(f"echo 0 > {file}" for file in forwarding)])
        self._nft("private", _GUARD)

    def destroy(self) -> None:
        """End every process in the namespaces and remove what is left of them."""
        left = existing()
        for name in self._names.values():
            if name in left:
                _remove(name)
        for child in self._children:
            child.wait(_COMMAND_TIMEOUT_S)
        self._children.clear()

    def ns_argv(self, place: Place, argv: Sequence[str]) -> list[str]:
        """Return the command that runs *argv* in *place*; the process keeps its id through it."""
        return ["ip", "netns", "exec", self._names[place], *argv]

    def run(
        self,
        place: Place,
        argv: Sequence[str],
        *,
        timeout: float = _COMMAND_TIMEOUT_S,
        check: bool = True,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """
        Run *argv* in *place* and wait, for *timeout* seconds at most.

        Raises ``CalledProcessError`` on another status than 0 (if *check*), ``TimeoutExpired``.
        """
        return _command(self.ns_argv(place, argv), timeout=timeout, check=check, stdin=stdin)

    def popen(self, place: Place, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        """Start *argv* in *place* with all three streams as pipes; :meth:`destroy` ends it."""
        child = subprocess.Popen(
            self.ns_argv(place, argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._children.append(child)
        return child

    def inbound_attempts(self) -> int:
        """
        Return how many packets from the DMZ tried to open a connection into ``private``.

        A caller that gets no answer repeats its SYN, so one attempt may count more than once.
        """
        query = ["nft", "-j", "list", "counter", "inet", "guard", "inbound_attempts"]
        listing = self.run("private", query)
        for item in json.loads(listing.stdout)["nftables"]:
            if "counter" in item:
                return int(item["counter"]["packets"])
        raise AssertionError(f"nft shows no counter: {listing.stdout}")

    def cut(self, one: Place, other: Place, *, established_only: bool = False) -> None:
        """
        Let nothing pass between two neighbours, silently and both ways, until :meth:`mend`.

        With *established_only* the TCP connections that stand now go mute, and new ones work.
        """
        rules = _CUT_ESTABLISHED if established_only else _CUT_ALL
        for place, peer in ((one, other), (other, one)):
            self._nft(place, rules.format(peer=peer))
            self._cuts.append((place, peer))

    def mend(self) -> None:
        """Undo every :meth:`cut`."""
        while self._cuts:
            place, peer = self._cuts.pop()
            self._nft(place, f"delete table inet cut_{peer}")

    def _wire(self, one: _End, other: _End) -> None:
        self._ip(
            one.place,
            f"link add {other.place} address {one.mac} type veth"
            f" peer name {one.place} address {other.mac} netns {self._names[other.place]}",
        )
        for near, far in ((one, other), (other, one)):
            interface = far.place
            # Neighbours are known for good: discovery would lose the first second of IPv6, and
            # would report an unreachable host where a cut further off reports nothing.
            self._ip(
                near.place,
                f"link set {interface} addrgenmode none",
                f"address add {near.v4}/24 dev {interface}",
                f"address add {near.v6}/64 dev {interface} nodad",
                f"link set {interface} up",
                f"neighbour replace {far.v4} lladdr {far.mac} dev {interface} nud permanent",
                f"neighbour replace {far.v6} lladdr {far.mac} dev {interface} nud permanent",
            )

    def _ip(self, place: Place, *lines: str) -> None:
        _command(["ip", "-n", self._names[place], "-batch", "-"], stdin="\n".join(lines) + "\n")

    def _nft(self, place: Place, rules: str) -> None:
        self.run(place, ["nft", "-f", "-"], stdin=rules)


def require() -> None:
    """
    Return if this machine can make namespaces and filter in them.

    Otherwise raises ``SkipTest``, or ``AssertionError`` if RELAYGATE_REQUIRE_ALL is 1.
    """
    if reason := _obstacle():
        missing(reason)


def require_program(name: str) -> str:
    """Return the path of the program *name*; raises as :func:`require` does where there is none."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if path is None:
        missing(f"there is no program {name!r} on this machine")
    return path


def missing(reason: str) -> NoReturn:
    """Skip the test for *reason*, aloud; or fail it where everything is required."""
    if os.environ.get(REQUIRE_ALL) == "1":
        raise AssertionError(f"{reason}, and {REQUIRE_ALL}=1 wants every test to run")
    raise SkipTest(f"NOT TESTED HERE: {reason} ({REQUIRE_ALL}=1 makes this a failure)")


def remove_leftovers() -> None:
    """Remove the namespaces of test processes that are no longer alive."""
    for name in existing():
        owner = _NAME.fullmatch(name)
        if owner and not Path("/proc", owner[1]).exists():
            _remove(name)


def existing() -> set[str]:
    """Return the names of all namespaces on this machine."""
    listing = _command(["ip", "netns", "list"]).stdout
    return {line.split()[0] for line in listing.splitlines() if line.strip()}


@functools.cache
def _obstacle() -> str | None:
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "nft"):
        if shutil.which(program) is None:
            return f"network namespaces need the program {program!r}"
    name = f"{_PREFIX}-{os.getpid()}-0-probe"
    try:
        _command(["ip", "netns", "add", name])
        try:
            _command(["ip", "netns", "exec", name, "nft", "-f", "-"], stdin=_GUARD)
        finally:
            _command(["ip", "netns", "delete", name])
    except subprocess.CalledProcessError as error:
        return f"the kernel refuses namespaces or filters: {error.stderr.strip()}"
    return None


def _remove(name: str) -> None:
    for pid in _command(["ip", "netns", "pids", name], check=False).stdout.split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue  # it ended by itself
    deletion = _command(["ip", "netns", "delete", name], check=False)
    # Two test processes may clear away the same leftovers at once; that it is gone is what counts.
    if deletion.returncode and name in existing():
        raise AssertionError(f"namespace {name} stays: {deletion.stderr.strip()}")


def _command(
    argv: Sequence[str],
    *,
    timeout: float = _COMMAND_TIMEOUT_S,
    check: bool = True,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=check
    )

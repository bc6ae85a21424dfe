"""What ``relaygate init`` asks where it was told nothing, and what is answered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from relaygate.cli.deployment import DeploymentError, Entry, Gateway, Inside, Published
from relaygate.networks import network_of

__all__ = ["Answers", "ask_all"]

_GATEWAY = "192.0.2.10:7443"
_NODE = "node-a"

T = TypeVar("T")
Ask = Callable[[str], str]


@dataclass
class Answers:
    """The same as the flags of these names have."""

    gateway: list[Gateway] = field(default_factory=list)
    node: list[Inside] = field(default_factory=list)
    service: list[Published] = field(default_factory=list)
    entry: list[Entry] = field(default_factory=list)
    entry_allow: list[str] = field(default_factory=list)
    public_address: str = ""


def ask_all(ask: Ask, tell: Callable[[str], object]) -> Answers:
    """
    Ask for a first deployment; an empty answer takes what stands in brackets.

    A wrong answer is told, and asked for again.  Raises DeploymentError at the end of the input.
    """
    try:
        return _ask_all(ask, tell)
    except EOFError:
        raise DeploymentError("the answers end before the questions do; nothing was made") from None


def _ask_all(ask: Ask, tell: Callable[[str], object]) -> Answers:
    told = Answers()
    told.gateway = _again(
        lambda: [
            Gateway.parse(
                ask(f"Where do internal nodes reach the DMZ node? HOST:PORT [{_GATEWAY}] ").strip()
                or _GATEWAY,
                "dmz",
            )
        ],
        tell,
    )
    told.node = _again(
        lambda: [
            Inside.parse(word)
            for word in ask(
                f"Which internal nodes? NAME=ADDRESS, divided by blanks [{_NODE}] "
            ).split()
            or [_NODE]
        ],
        tell,
    )
    tell("What is to be published? NAME=PROTOCOL,PORT,BACKEND; an empty line ends it.")
    tell("  PROTOCOL: ssh (SFTP, SCP), ftp, ftps, http, https (opened inside), tls (unopened), tcp")
    tell("  as in: sftp=ssh,22,sftp.private.example:22")
    told.service = _many(ask, "service: ", Published.parse, tell)
    if any(service.ftp for service in told.service):
        told.public_address = ask(
            "The DMZ's address as FTP partners see it [the one they reach] "
        ).strip()
    tell("Where may programs inside go out to? NAME=PROTOCOL,PORT,DESTINATION, or an empty line.")
    tell("  PROTOCOL: socks5, http-connect, or a fixed one: tcp, ftp")
    tell("  as in: out=socks5,1080,sftp.partner.example:22")
    told.entry = _many(ask, "entry: ", Entry.parse, tell)
    if any(entry.open_to_others for entry in told.entry):
        told.entry_allow = _again(
            lambda: [
                str(network_of(word))
                for word in ask("Whose programs may? Networks, divided by blanks: ").split()
            ],
            tell,
        )
    return told


def _many(
    ask: Ask, prompt: str, parse: Callable[[str], T], tell: Callable[[str], object]
) -> list[T]:
    """Answers until there is an empty one."""
    found: list[T] = []
    while text := ask(prompt).strip():
        try:
            found.append(parse(text))
        except DeploymentError as error:
            tell(f"  {error}")
    return found


def _again(question: Callable[[], T], tell: Callable[[str], object]) -> T:
    """The answer to *question*, which is put until it can be understood."""
    while True:
        try:
            return question()
        except (DeploymentError, ValueError) as error:
            tell(f"  {error}")

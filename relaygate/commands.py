"""
The whole contract between the two nodes, on one page.

An uplink is AMP (``twisted.protocols.amp``) over mutual TLS 1.3; ``docs/protocol.md`` tells the
same in prose.  Every argument has a type and a bound, checked at the receiver; what does not fit is
answered with :class:`BadArgument`.  A change that an older node would misread raises :data:`MAJOR`,
one that it may ignore (a new argument, a new command) raises :data:`MINOR`.
"""

from __future__ import annotations

from typing import ClassVar

from twisted.protocols import amp

# Raised as often by those who answer as by the types.
from relaygate.arguments import BadArgument as BadArgument  # noqa: PLC0414
from relaygate.arguments import Flag, Number, Octets, Rows, Text
from relaygate.boxes import Command

MAJOR = 1
MINOR = 2
# From this one on a DMZ node takes Connect and Await.
MINOR_FORWARD = 2
Fields = list[tuple[bytes, amp.Argument]]
# ALPN names (RFC 7301): the protocol and its major version, for uplinks and for data channels.
ALPN_UPLINK = f"relaygate/{MAJOR}".encode()
ALPN_CHANNEL = f"relaygate-channel/{MAJOR}".encode()

# The most on one page; there are fewer where they are long, since a value of AMP's is 65,535 bytes.
SERVICES_PER_PAGE = 100
PAGE_BYTES = 60_000
# A node's configuration holds 1,024 services at most; the DMZ node opens them in one turn.
MAX_PAGES = 16
MAX_CHANNELS_PER_ASK = 1024
# Listeners on one page of a report, and figures of the DMZ node as a whole.
LISTENERS_PER_PAGE = 100
MAX_FIGURES = 256
# A name of a list of networks: the hash of what is in it.
LIST_NAME_CHARACTERS = 32
# Pages of a list that fills a node's share of the DMZ's memory, and bytes of each family in one.
LIST_PAGE_BYTES = 32 * 1024
MAX_LIST_PAGES = 1024
# Bans that one call sets or lifts, and seconds that they may last.
BANS_PER_PAGE = 500
MAX_BAN_S = 2**22
# Networks whose members may open a session's data connections in its client's place.
MAX_PEERS = 16
# Ports that one service may have mapped: they are bound in one turn.
MAX_MAPPED = 1000


class VersionRefused(Exception):
    """The other node speaks another major version of this protocol."""


class OutOfOrder(Exception):
    """A command that is not due: the uplink has not said hello, or a page is missing."""


class NotPermitted(Exception):
    """The DMZ node's policy forbids it, or the session is not this node's to speak for."""


class NotPossible(Exception):
    """It is permitted, but cannot be done now: no port is free, or nobody answers."""


ERRORS: dict[type[Exception], bytes] = {
    BadArgument: b"BAD_ARGUMENT",
    VersionRefused: b"VERSION_REFUSED",
    OutOfOrder: b"OUT_OF_ORDER",
    NotPermitted: b"NOT_PERMITTED",
    NotPossible: b"NOT_POSSIBLE",
}


class Hello(Command):
    """
    internal node -> DMZ node, once, first: which protocol version it speaks.

    ``generation`` in the answer counts the uplinks that the DMZ node has taken since its start: the
    one with the highest number is the node's own.
    """

    arguments = [
        (b"major", Number(0, 65535)),
        (b"minor", Number(0, 65535)),
        (b"software", Text(64)),
    ]
    response = [
        (b"major", Number(0, 65535)),
        (b"minor", Number(0, 65535)),
        (b"software", Text(64)),
        (b"generation", Number(0, 2**53)),
    ]
    errors = ERRORS


class Declare(Command):
    """
    internal node -> DMZ node: one page of all the services that the node offers.

    Pages count from 0.  With the last one the wish is whole, and the DMZ node makes the difference:
    opens, keeps, changes or closes listeners.  The answer to the last page says which services were
    refused and why; the others listen now.  The whole may be declared again at any time.

    ``map-first`` to ``map-last`` are there for FTP that is not opened: ports that the DMZ node
    binds while sessions run, each for the server's port of that number, for who may open a
    session's data connections (the client, and the networks ``map-peers``, with a space between
    two), on channels of the kind ``map-tls``.  At most 1,000 ports.
    """

    arguments = [
        (b"page", Number(0, MAX_PAGES - 1)),
        (b"last", Flag()),
        (
            b"services",
            Rows(
                [
                    (b"name", Text(63)),
                    (b"protocol", Text(16)),
                    (b"host", Text(64)),
                    (b"port", Number(1, 65535)),
                    (b"tls-channel", Flag()),
                    (b"max-sessions", Number(0, 2**31)),
                    (b"max-sessions-per-address", Number(0, 2**31)),
                    # Since minor version 2: how sessions are spread over the nodes, and for how
                    # many seconds a client keeps its node.
                    (b"balance", Text(16, optional=True)),
                    (b"persistence", Number(0, 2**31, optional=True)),
                    (b"map-first", Number(1024, 65535, optional=True)),
                    (b"map-last", Number(1024, 65535, optional=True)),
                    (b"map-peers", Text(200, optional=True)),
                    (b"map-tls", Flag(optional=True)),
                    (b"max-rate", Number(0, 2**31, optional=True)),
                    (b"max-rate-per-address", Number(0, 2**31, optional=True)),
                    (b"allow", Text(LIST_NAME_CHARACTERS, optional=True)),
                    (b"deny", Text(LIST_NAME_CHARACTERS, optional=True)),
                ],
                SERVICES_PER_PAGE,
            ),
        ),
    ]
    response = [
        (b"refused", Rows([(b"name", Text(63)), (b"reason", Text(256))], SERVICES_PER_PAGE)),
    ]
    errors = ERRORS


class OpenChannels(Command):
    """DMZ node -> internal node: clients wait, so dial *count* data channels now, beside the
    pool.
    """

    arguments = [(b"tls", Flag()), (b"count", Number(1, MAX_CHANNELS_PER_ASK))]
    response: ClassVar[Fields] = []
    errors = ERRORS


# Every command about a transfer begins with these: the session's id, and the transfer's number.
_TRANSFER: Fields = [(b"session", Text(16)), (b"transfer", Number(0, 2**31))]


class OpenPassive(Command):
    """
    internal node -> DMZ node: listen for one FTP data connection of a session that runs.

    A free port from ``first`` to ``last`` is opened, on the address that the session's client
    reached.  The client may connect to it, and so may who is in one of the networks ``peers``.
    ``tls`` is the kind of channel that the connection is to be carried on.
    """

    arguments = [
        *_TRANSFER,
        (b"first", Number(1, 65535)),
        (b"last", Number(1, 65535)),
        (b"peers", Rows([(b"network", Text(64))], MAX_PEERS)),
        (b"tls", Flag()),
    ]
    response = [(b"port", Number(1, 65535))]
    errors = ERRORS


class DialActive(Command):
    """
    internal node -> DMZ node: dial ``port`` of a session's client, for one FTP data connection.

    ``source-port`` is the port to dial from, 0 any.  The answer comes when the client is reached.
    """

    arguments = [
        *_TRANSFER,
        (b"port", Number(1024, 65535)),
        (b"source-port", Number(0, 65535)),
        (b"tls", Flag()),
    ]
    response: ClassVar[Fields] = []
    errors = ERRORS


# Both ways out are answered so: 0 or a refusal's code, what may be said of it, and the address and
# port of the DMZ node's own that the other side sees.
_WAY_OUT: Fields = [
    (b"code", Number(0, 255)),
    (b"detail", Text(256)),
    (b"own-host", Text(64)),
    (b"own-port", Number(0, 65535)),
]


class Connect(Command):
    """
    internal node -> DMZ node: dial ``port`` of ``host``, a name or an IP address, for a session.

    The DMZ node resolves it, asks its policy, and dials one of the addresses that the policy was
    asked about.  ``entry`` is for its log; ``data`` says that FTP data connections may follow, for
    which the session is spoken of as a published one is; ``patience`` is in milliseconds.
    """

    arguments = [
        *_TRANSFER,
        (b"entry", Text(63)),
        (b"host", Text(253)),
        (b"port", Number(1, 65535)),
        (b"data", Flag()),
        (b"tls", Flag()),
        (b"patience", Number(1, 60_000)),
    ]
    response = _WAY_OUT
    errors = ERRORS


class Await(Command):
    """
    internal node -> DMZ node: listen for one connection of ``host``, and of nobody else.

    A free port from ``first`` to ``last`` is opened, on the address from which the DMZ node would
    dial ``host``.  Who has come is said on the data channel.
    """

    arguments = [
        *_TRANSFER,
        (b"entry", Text(63)),
        (b"host", Text(253)),
        (b"first", Number(1, 65535)),
        (b"last", Number(1, 65535)),
        (b"tls", Flag()),
    ]
    response = _WAY_OUT
    errors = ERRORS


class CloseTransfer(Command):
    """
    internal node -> DMZ node: give back what a transfer still holds in the DMZ.

    One that the DMZ node does not know, or no longer, is closed already.
    """

    arguments = _TRANSFER
    response: ClassVar[Fields] = []
    errors = ERRORS


class PutNetworks(Command):
    """
    internal node -> DMZ node: one page of a list of networks.  (Since minor version 2.)

    By its ``name`` a later Declare speaks of it: BLAKE2b of 16 bytes, in hex, over the length of
    all of ``four`` (8 bytes), all of ``four``, all of ``six``.  These are spans of IPv4 and IPv6:
    first and last address, ascending, disjoint.  ``known`` in the answer to page 0 says that the
    DMZ node has that list already, so that no further page is due.  A list that the next whole
    Declare does not name is forgotten.
    """

    arguments = [
        (b"name", Text(LIST_NAME_CHARACTERS)),
        (b"page", Number(0, MAX_LIST_PAGES - 1)),
        (b"last", Flag()),
        (b"four", Octets(LIST_PAGE_BYTES)),
        (b"six", Octets(LIST_PAGE_BYTES)),
    ]
    response = [(b"known", Flag())]
    errors = ERRORS


class Ban(Command):
    """
    internal node -> DMZ node: these networks may not come for so long, to any service.  (Since
    minor version 2.)

    ``seconds`` of 0 lifts the ban of the very same network.  ``full`` in the answer says how many
    were not taken, since the DMZ node's table is full.
    """

    arguments = [
        (
            b"bans",
            Rows([(b"network", Text(64)), (b"seconds", Number(0, MAX_BAN_S))], BANS_PER_PAGE),
        )
    ]
    response = [(b"full", Number(0, BANS_PER_PAGE))]
    errors = ERRORS


class Report(Command):
    """
    internal node -> DMZ node: how are you?  (Since minor version 2.)

    The answer has ``figures`` of the DMZ node as a whole, each with a name of its own, and one page
    of the listeners that the asking node offers; pages count from 0, and ``pages`` is how many
    there are.  A node that does not know a figure passes it on as it is.
    """

    arguments = [(b"page", Number(0, MAX_PAGES - 1))]
    response = [
        (b"software", Text(64)),
        (b"draining", Flag()),
        (b"pages", Number(1, MAX_PAGES)),
        (
            b"figures",
            Rows([(b"name", Text(64)), (b"value", Number(0, 2**63))], MAX_FIGURES),
        ),
        (
            b"listeners",
            Rows(
                [
                    (b"service", Text(63)),
                    (b"host", Text(64)),
                    (b"port", Number(1, 65535)),
                    (b"nodes", Number(0, 65535)),
                    (b"sessions", Number(0, 2**31)),
                    (b"opened", Number(0, 2**63)),
                    (b"refused", Number(0, 2**63)),
                    (b"bytes-in", Number(0, 2**63)),
                    (b"bytes-out", Number(0, 2**63)),
                ],
                LISTENERS_PER_PAGE,
            ),
        ),
    ]
    errors = ERRORS


class Draining(Command):
    """
    DMZ node -> internal node: no new sessions come from here any more.  (Since minor version 2.)

    Its listeners close when the nodes have been told; the uplink stands until the sessions that run
    are over, or their time is.
    """

    arguments: ClassVar[Fields] = []
    response: ClassVar[Fields] = []
    errors = ERRORS


class DeclareAgain(Command):
    """
    DMZ node -> internal node: what Declare answered does not hold any more.  (Since minor version
    2.)

    A service that was refused is served now, or one that was taken is refused, without a word of
    the node's own; by its next Declare it learns which.
    """

    arguments: ClassVar[Fields] = []
    response: ClassVar[Fields] = []
    errors = ERRORS


class Probe(Command):
    """
    internal node -> DMZ node: how does it look from where you stand?  (Since minor version 2.)

    ``clock`` in the answer is the time there, in ms since 1970 (UTC); ``channel`` how many
    microseconds a message took there and back on an idle data channel of the kind ``tls``, 0 if
    there was none.  ``permitted`` is how many of the ports ``first`` to ``last`` on ``host`` may be
    opened, ``looked`` how many of those were tried and ``free`` how many could be; with ``host``
    empty none.  ``own`` is whether ``host`` is an address of that machine, and ``lent`` how many of
    the ports its system gives to connections that go out (no answer: it is not known).
    """

    arguments = [
        (b"tls", Flag()),
        (b"host", Text(64)),
        (b"first", Number(0, 65535)),
        (b"last", Number(0, 65535)),
    ]
    response = [
        (b"clock", Number(0, 2**53)),
        (b"channel", Number(0, 2**53)),
        (b"permitted", Number(0, 65536)),
        (b"looked", Number(0, 65536)),
        (b"free", Number(0, 65536)),
        (b"own", Flag()),
        (b"lent", Number(0, 65536, optional=True)),
    ]
    errors = ERRORS


class Ping(Command):
    """Both ways: is the other node there?"""

    arguments: ClassVar[Fields] = []
    response: ClassVar[Fields] = []
    errors = ERRORS


class Farewell(Command):
    """
    Both ways: this uplink ends now, and why.

    ``superseded`` says that a newer uplink of the same node has taken over: whoever holds this one
    is not to come back soon, or two processes with one name would push each other out for ever.
    """

    arguments = [(b"reason", Text(256)), (b"superseded", Flag())]
    response: ClassVar[Fields] = []
    errors = ERRORS


ALL: dict[bytes, type[amp.Command]] = {
    command.commandName: command
    for command in (
        Hello,
        Declare,
        OpenChannels,
        OpenPassive,
        DialActive,
        Connect,
        Await,
        CloseTransfer,
        PutNetworks,
        Ban,
        Report,
        Draining,
        DeclareAgain,
        Probe,
        Ping,
        Farewell,
    )
}

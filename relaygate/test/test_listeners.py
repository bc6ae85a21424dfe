"""Tests of the DMZ node's listeners: the difference that a declaration makes."""

from __future__ import annotations

import errno
import socket
from dataclasses import replace
from typing import Any

from twisted.internet import reactor
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Factory
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.addresses import HostPort, ListenRule
from relaygate.legport import LegPort
from relaygate.listeners import Listener, Listeners, Offer
from relaygate.test.ports import free_port
from relaygate.test.properties import given, st
from relaygate.test.wire import Listening, Peer, lines, logged, until

RULES = [ListenRule.parse("0.0.0.0:20-29")]


def offer(name: str = "sftp", listen: str = "0.0.0.0:22", **changed: Any) -> Offer:
    """An offer of one service."""
    made = Offer(name, "ssh", HostPort.parse(listen), False, 0, 0)
    return replace(made, **changed)


class Node:
    """A node that offers something."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.told = 0

    def declare_again(self) -> None:
        self.told += 1

    async def channel(self, tls: bool, patience_s: float, address: str) -> Any:
        raise AssertionError("nobody asked for a channel")


class FakePort:
    """A listening socket that knows whether it is open."""

    def __init__(self) -> None:
        self.open = True

    def stopListening(self) -> None:
        assert self.open, "closed twice"
        self.open = False


class ListenersCase(SynchronousTestCase):
    """Listeners whose sockets are pretended."""

    def setUp(self) -> None:
        self.ports: list[FakePort] = []
        self.refusal: CannotListenError | None = None
        self.listeners = Listeners(self.bind, RULES)
        self.a, self.b = Node("node-a"), Node("node-b")

    def bind(self, listener: Listener) -> Any:
        """Open a pretended socket."""
        if self.refusal is not None:
            raise self.refusal
        self.ports.append(FakePort())
        return self.ports[-1]

    def standing(self) -> dict[str, list[str]]:
        """The listeners that stand, with the names of their nodes."""
        return {
            str(listener.offer.listen): [node.name for node in listener.nodes]
            for listener in self.listeners
        }

    def open_ports(self) -> int:
        """How many sockets are open."""
        return sum(port.open for port in self.ports)


class DeclareTests(ListenersCase):
    """What one node's declarations make."""

    def test_opens(self) -> None:
        """Every service that is permitted gets its listener."""
        self.assertEqual(self.listeners.declare(self.a, [offer(), offer("b", "0.0.0.0:23")]), {})
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-a"], "0.0.0.0:23": ["node-a"]})
        self.assertEqual(self.open_ports(), 2)

    def test_same_again(self) -> None:
        """The same declaration again closes nothing and binds nothing."""
        for _ in range(3):
            self.assertEqual(self.listeners.declare(self.a, [offer()]), {})
        self.assertEqual(len(self.ports), 1)
        self.assertEqual(self.open_ports(), 1)

    def test_difference(self) -> None:
        """What is no longer wished for closes, what is new opens, the rest is not touched."""
        kept, gone, new = (offer(f"s{port}", f"0.0.0.0:{port}") for port in (22, 23, 24))
        self.listeners.declare(self.a, [kept, gone])
        self.listeners.declare(self.a, [kept, new])
        self.assertEqual(list(self.standing()), ["0.0.0.0:22", "0.0.0.0:24"])
        self.assertEqual([port.open for port in self.ports], [True, False, True])

    def test_nothing(self) -> None:
        """A node that wishes for nothing has nothing."""
        self.listeners.declare(self.a, [offer()])
        self.listeners.declare(self.a, [])
        self.assertEqual(self.standing(), {})
        self.assertEqual(self.open_ports(), 0)

    def test_changed_settings(self) -> None:
        """The only node of a listener changes its settings without closing the socket."""
        self.listeners.declare(self.a, [offer()])
        changed = offer("other", protocol="tcp", max_sessions=7, max_sessions_per_address=2)
        self.assertEqual(self.listeners.declare(self.a, [changed]), {})
        (listener,) = self.listeners
        self.assertEqual(listener.offer, changed)
        self.assertEqual(listener.sessions.caps, changed.caps)
        self.assertEqual(len(self.ports), 1)

    def test_policy(self) -> None:
        """What the policy does not permit is refused by name; the rest stands (Lesson 10)."""
        for listen in ("0.0.0.0:30", "[::]:22"):
            refused = self.listeners.declare(self.a, [offer("x", listen), offer()])
            self.assertEqual(list(refused), ["x"])
            self.assertIn("policy.listen does not permit", refused["x"])
            self.assertEqual(list(self.standing()), ["0.0.0.0:22"])

    def test_policy_at_each_declaration(self) -> None:
        """A node that is long enrolled is held to the policy as on its first day (Lesson 10)."""
        for _ in range(3):
            self.assertEqual(self.listeners.declare(self.a, [offer()]), {})
            refused = self.listeners.declare(self.a, [offer(), offer("x", "0.0.0.0:30")])
            self.assertEqual(list(refused), ["x"])

    def test_unknown_protocol(self) -> None:
        """A protocol that only a newer node knows is refused, and the rest stands (Lesson 31)."""
        refused = self.listeners.declare(self.a, [offer("x", protocol="quic"), offer()])
        self.assertIn("does not know the protocol 'quic'", refused["x"])
        self.assertEqual(list(self.standing()), ["0.0.0.0:22"])

    def test_same_address_twice(self) -> None:
        """Two services on one address: the second is refused, and told of the first (Lesson 30)."""
        refused = self.listeners.declare(self.a, [offer("one"), offer("two")])
        self.assertIn("is asked for twice, by 'one' as well", refused["two"])
        (listener,) = self.listeners
        self.assertEqual(listener.offer.name, "one")

    def test_same_name_twice(self) -> None:
        """Two services of one name: the second is refused."""
        refused = self.listeners.declare(self.a, [offer(), offer(listen="0.0.0.0:23")])
        self.assertEqual(refused, {"sftp": "two services have this name"})
        self.assertEqual(list(self.standing()), ["0.0.0.0:22"])

    def test_bind_failure(self) -> None:
        """A socket that cannot be opened is refused with the kernel's reason, and tried again."""
        error = OSError(errno.EADDRINUSE, "Address already in use")
        self.refusal = CannotListenError("0.0.0.0", 22, error)
        with logged() as events:
            refused = self.listeners.declare(self.a, [offer()])
        self.assertIn("cannot listen on 0.0.0.0:22", refused["sftp"])
        self.assertIn("Address already in use", refused["sftp"])
        self.assertEqual(self.standing(), {})
        (line,) = lines(events, "listener refused")
        self.assertIn("node=node-a service=sftp", line)
        self.refusal = None
        self.assertEqual(self.listeners.declare(self.a, [offer()]), {})


class SharedTests(ListenersCase):
    """Listeners of several nodes."""

    def test_two_nodes(self) -> None:
        """Nodes with the same wish share one socket, which the last of them closes (Lesson 23)."""
        self.listeners.declare(self.a, [offer()])
        self.listeners.declare(self.b, [offer()])
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-a", "node-b"]})
        self.assertEqual(len(self.ports), 1)
        self.listeners.withdraw(self.a)
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-b"]})
        self.assertEqual(self.open_ports(), 1)
        self.listeners.withdraw(self.b)
        self.assertEqual(self.standing(), {})
        self.assertEqual(self.open_ports(), 0)

    def test_sessions_go_round(self) -> None:
        """Sessions are offered to each node in turn, and then to the others."""
        self.listeners.declare(self.a, [offer()])
        self.listeners.declare(self.b, [offer()])
        (listener,) = self.listeners
        group = listener.group
        served = []
        for _ in range(4):
            first = group.pick("192.0.2.1", 0.0)
            assert first is not None
            other = group.pick("192.0.2.1", 0.0, [first])
            assert other is not None
            self.assertIsNone(group.pick("192.0.2.1", 0.0, [first, other]))
            served.append((first.name, other.name))
        self.assertEqual(served, [("node-a", "node-b")] * 4)

    def test_differing_settings(self) -> None:
        """A node whose settings differ is refused and told which one, whichever it is."""
        self.listeners.declare(self.a, [offer()])
        others: dict[str, Any] = {
            "name": "other",
            "protocol": "tcp",
            "tls_channel": True,
            "max_sessions": 5,
            "max_sessions_per_address": 5,
            "balance": "source",
            "persistence": 300,
        }
        for setting, value in others.items():
            changed = replace(offer(), **{setting: value})
            refused = self.listeners.declare(self.b, [changed])
            self.assertEqual(
                refused, {changed.name: f"{setting} is not the same as that of node 'node-a'"}
            )
            self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-a"]})
        (listener,) = self.listeners
        self.assertEqual(listener.offer, offer())

    def test_changing_a_shared_listener(self) -> None:
        """Of two nodes, the first that changes leaves; when the other follows, it may come back."""
        new = offer(max_sessions=9)
        for node in (self.a, self.b):
            self.listeners.declare(node, [offer()])
        self.assertIn("sftp", self.listeners.declare(self.a, [new]))
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-b"]})
        self.assertEqual(self.listeners.declare(self.b, [new]), {})
        self.assertEqual(self.listeners.declare(self.a, [new]), {})
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-b", "node-a"]})
        self.assertEqual(len(self.ports), 1)

    def test_last_of_a_kind(self) -> None:
        """Requirement 82: when the last node goes that holds to other settings, a node that was
        refused for its own has the listener at once, and no socket is closed.
        """
        new, c = offer(max_sessions=9), Node("node-c")
        self.listeners.declare(self.a, [offer()])
        for node in (self.b, c):
            self.assertIn("sftp", self.listeners.declare(node, [new]))
        self.listeners.withdraw(self.a)
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-b", "node-c"]})
        (listener,) = self.listeners
        self.assertEqual((listener.offer, len(self.ports), self.open_ports()), (new, 1, 1))
        # Both have heard that they were refused; now they hear that this is over.
        self.assertEqual([each.told for each in (self.a, self.b, c)], [0, 1, 1])
        for node in (self.b, c):
            self.listeners.withdraw(node)
        self.assertEqual(self.open_ports(), 0)

    def test_others_follow(self) -> None:
        """Three nodes change one after the other: with the last one all stand there again."""
        new, c = offer(max_sessions=9), Node("node-c")
        for node in (self.a, self.b, c):
            self.listeners.declare(node, [offer()])
        for node in (self.a, self.b, c):
            self.listeners.declare(node, [new])
        self.assertEqual(self.standing(), {"0.0.0.0:22": ["node-c", "node-a", "node-b"]})
        self.assertEqual(len(self.ports), 1)

    def test_replace(self) -> None:
        """A newer uplink stands in the older one's places; no socket is closed (Lesson 1)."""
        newer = Node("node-a")
        self.listeners.declare(self.a, [offer(), offer("b", "0.0.0.0:23")])
        self.listeners.declare(self.b, [offer()])
        self.listeners.replace(self.a, newer)
        self.listeners.withdraw(self.a)
        self.assertEqual(self.open_ports(), 2)
        for listener in self.listeners:
            self.assertNotIn(self.a, listener.nodes)
            self.assertIn(newer, listener.nodes)

    def test_close(self) -> None:
        """All sockets close at the end, those of several nodes once."""
        self.listeners.declare(self.a, [offer(), offer("b", "0.0.0.0:23")])
        self.listeners.declare(self.b, [offer()])
        self.listeners.close()
        self.assertEqual(self.open_ports(), 0)
        self.assertEqual(self.standing(), {})

    @given(
        st.lists(
            st.tuples(
                st.booleans(),
                st.lists(
                    st.tuples(st.integers(20, 24), st.booleans()), max_size=4, unique_by=lambda t: t
                ),
            ),
            max_size=8,
        )
    )
    def test_any_declarations(self, wishes: list[tuple[bool, list[tuple[int, bool]]]]) -> None:
        """
        After any declarations every address that a node wants stands, and behind it all nodes that
        want it as it is; one that is not refused is among them.
        """
        self.setUp()
        wants: dict[str, dict[str, Offer]] = {"node-a": {}, "node-b": {}}
        for first, wish in wishes:
            node = self.a if first else self.b
            offers = [
                offer(f"s{port}-{tls}", f"0.0.0.0:{port}", tls_channel=tls) for port, tls in wish
            ]
            refused = self.listeners.declare(node, offers)
            # Of two at one address the first one counts.
            wants[node.name] = {str(each.listen): each for each in reversed(offers)}
            served = {str(listener.offer.listen): listener.offer for listener in self.listeners}
            standing = self.standing()
            self.assertEqual(set(standing), {*wants["node-a"], *wants["node-b"]})
            for address, names in standing.items():
                same = {name for name in wants if wants[name].get(address) == served[address]}
                self.assertEqual(set(names), same)
                self.assertTrue(names)
            for each in offers:
                if each.name not in refused:
                    self.assertIn(node.name, standing[str(each.listen)])
            self.assertEqual(self.open_ports(), len(standing))


class SocketTests(TestCase):
    """Real sockets, opened as the DMZ node does it."""

    def setUp(self) -> None:
        self.listeners = Listeners(
            self.bind, [ListenRule.parse("0.0.0.0:1-65535"), ListenRule.parse("127.0.0.1:1-65535")]
        )
        self.addCleanup(self.listeners.close)
        self.reached: list[str] = []
        self.node = Node("node-a")

    def bind(self, listener: Listener) -> Any:
        """Open a socket whose connections note the service that they reached."""
        reached = self.reached
        name = listener.offer.name

        class Noting(Peer):
            def connectionMade(self) -> None:
                reached.append(name)
                self.leg.loseConnection()

        factory: Any = Factory.forProtocol(Noting)
        factory.noisy = False
        listen = listener.offer.listen
        port = LegPort(listen.host, listen.port, factory, reactor, shared=True)
        port.startListening()
        return port

    async def test_explicit_and_wildcard(self) -> None:
        """An explicit address beside the wildcard is possible, and is what clients of it reach."""
        for wild_first in (True, False):
            self.reached.clear()
            port = free_port("0.0.0.0")
            both = [offer("wild", f"0.0.0.0:{port}"), offer("explicit", f"127.0.0.1:{port}")]
            order = both if wild_first else both[::-1]
            self.assertEqual(self.listeners.declare(self.node, order), {})
            for host in ("127.0.0.1", "127.0.0.2"):
                with socket.create_connection((host, port), 5):
                    pass
            await until(lambda: len(self.reached) == 2, "both connections")
            self.assertEqual(sorted(self.reached), ["explicit", "wild"])

    async def test_taken_port(self) -> None:
        """A port that another program holds is refused in words, and opens when it is free."""
        other = Listening(self, Factory.forProtocol(Peer))
        wish = offer(listen=f"127.0.0.1:{other.address.port}")
        refused = self.listeners.declare(self.node, [wish])
        self.assertIn("Address already in use", refused["sftp"])
        closed = other.port.stopListening()
        if closed is not None:
            await closed
        self.assertEqual(self.listeners.declare(self.node, [wish]), {})

    async def test_reopened_at_once(self) -> None:
        """A listener that was closed can be opened again in the same turn."""
        wish = offer(listen=f"127.0.0.1:{free_port()}")
        for _ in range(5):
            self.assertEqual(self.listeners.declare(self.node, [wish]), {})
            self.assertEqual(self.listeners.declare(self.node, []), {})

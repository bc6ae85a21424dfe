"""Tests of reloading: the difference between two configurations, and what a running node makes of
it.
"""

from __future__ import annotations

import gc
import signal
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate import internal
from relaygate.addresses import HostPort, ListenRule
from relaygate.changes import compare, differing
from relaygate.config import ServiceConfig
from relaygate.identity import IdentityError, Role
from relaygate.test.nodes import Authority, Node
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder
from relaygate.test.properties import given, st
from relaygate.test.test_admin import socket_path
from relaygate.test.test_cli import call
from relaygate.test.test_sessions import Echo, SessionCase
from relaygate.test.test_tap import dmz_config, internal_config
from relaygate.test.wire import lines, logged, until


@dataclass(frozen=True)
class Thing:
    """Something with a name."""

    name: str
    size: int = 0
    colour: str = "red"


class CompareTests(SynchronousTestCase):
    """The difference, on paper."""

    def test_lines(self) -> None:
        """What was added, removed and changed is told, with the keys that changed."""
        old = [Thing("a"), Thing("b"), Thing("c")]
        new = [Thing("d"), Thing("c", 3, "blue"), Thing("a")]
        self.assertEqual(
            compare(old, new).lines("thing"),
            ["thing d: added", "thing b: removed", "thing c: changed (size, colour)"],
        )
        self.assertEqual(compare(old, new).lines("thing", {"d", "c"}), ["thing b: removed"])
        self.assertEqual(compare(old, old[::-1]).lines("thing"), [])
        self.assertEqual(differing(Thing("a"), Thing("b")), ("name",))

    @given(*[st.dictionaries(st.sampled_from("abcdef"), st.integers(0, 2))] * 2)
    def test_nothing_is_lost(self, old: dict[str, int], new: dict[str, int]) -> None:
        """Old things without the removed and with the added and changed are the new ones."""
        before = {name: Thing(name, size) for name, size in old.items()}
        after = {name: Thing(name, size) for name, size in new.items()}
        found = compare(before.values(), after.values())
        for each in found.removed:
            del before[each.name]
        for each in found.added:
            self.assertNotIn(each.name, before)
        for each in found.changed:
            self.assertIn(each.name, before)
        before |= {each.name: each for each in (*found.added, *found.changed)}
        self.assertEqual(before, after)


class ReloadTests(SessionCase):
    """Both nodes of a session, whose internal one gets another configuration."""

    def other(self, name: str, **more: Any) -> ServiceConfig:
        """Another service, with the same backends."""
        (first,) = self.node._config.services
        return replace(first, name=name, listen=HostPort("127.0.0.1", free_port()), **more)

    def use(self, *services: ServiceConfig, **more: Any) -> list[str]:
        """Reload with *services*."""
        return self.node.reload(replace(self.node._config, services=services, **more))

    def listening(self) -> dict[str, int]:
        """The services that have a listener, and which object it is."""
        return {each.offer.name: id(each.port) for each in self.dmz.listeners}

    async def test_services(self) -> None:
        """
        Services come and go; one that stays keeps its socket and its sessions, and a session of one
        that goes lives on (Lesson 14).
        """
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        running = await self.client(b"1")
        await self.got(running, b"1")
        before = self.listening()
        other = self.other("other")
        self.assertEqual(self.use(first, other), ["service other: added"])
        await until(lambda: len(self.listening()) == 2, "the other listener")
        self.assertEqual(self.listening()["svc"], before["svc"])
        self.assertEqual(self.use(other), ["service svc: removed"])
        await until(lambda: set(self.listening()) == {"other"}, "the listener's end")
        running.transport.write(b"2")  # type: ignore[union-attr]
        await self.got(running, b"12")
        self.port = other.listen.port
        another = await self.client(b"3")
        await self.got(another, b"3")

    async def test_what_takes_a_restart(self) -> None:
        """It is named as in the file; what a drain may take is not among it."""
        await self.start("tcp", Echo)
        services = self.node._config.services
        self.assertEqual(self.use(*services, drain_s=5.0), ["stop.drain: changed"])
        told = self.use(*services, admin_socket=Path("other.sock"))
        self.assertEqual(told, ["admin.socket: changed in the file, which takes a restart"])

    async def test_changed_caps(self) -> None:
        """A changed cap counts sessions that run already, and the socket is not touched."""
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        running = await self.client(b"1")
        await self.got(running, b"1")
        before = self.listening()
        told = self.use(replace(first, max_sessions=1))
        self.assertEqual(told, ["service svc: changed (max_sessions)"])
        (listener,) = self.dmz.listeners
        await until(lambda: listener.offer.max_sessions == 1, "the new cap")
        self.assertEqual(self.listening(), before)
        self.assertEqual(await self.over(await self.client()), "reset")
        running.transport.write(b"2")  # type: ignore[union-attr]
        await self.got(running, b"12")
        self.use(replace(first, max_sessions=2))
        await until(lambda: listener.offer.max_sessions == 2, "the new cap")
        another = await self.client(b"3")
        await self.got(another, b"3")
        self.assertEqual(self.node.published["svc"].sessions.total, 2)

    async def test_gateways(self) -> None:
        """A gateway that is taken away ends when its sessions have; one that comes is dialled."""
        await self.start("tcp", Echo)
        (gateway,) = self.node._config.gateways
        running = await self.client(b"1")
        await self.got(running, b"1")
        nowhere = replace(gateway, name="dmz-2", address=HostPort("127.0.0.1", free_port()))
        config = replace(self.node._config, gateways=(nowhere,))
        told = self.node.reload(config)
        self.assertEqual(told, ["gateway dmz-2: added", "gateway dmz: removed"])
        await until(lambda: not self.listening(), "the listener's end")
        self.assertEqual(len(self.dmz.book), 1)
        running.transport.write(b"2")  # type: ignore[union-attr]
        await self.got(running, b"12")
        running.transport.loseConnection()  # type: ignore[union-attr]
        await until(lambda: len(self.dmz.book) == 0, "the uplink's end")
        self.node.reload(replace(config, gateways=(replace(gateway, pool=3),)))
        await until(self.listening, "the listener")
        again = await self.client(b"3")
        await self.got(again, b"3")

    async def test_gateway_taken_back(self) -> None:
        """
        A gateway that comes back while a session of its former time runs has its uplink again,
        which never went.
        """
        await self.start("tcp", Echo)
        config = self.node._config
        running = await self.client(b"1")
        await self.got(running, b"1")
        link = self.node.links["dmz"]
        self.node.reload(replace(config, gateways=()))
        await until(lambda: not self.listening(), "the listener's end")
        told = self.node.reload(config)
        self.assertEqual(told, ["gateway dmz: added"])
        await until(self.listening, "the listener")
        self.assertIs(self.node.links["dmz"], link)
        self.assertEqual(link.generation, 1)
        again = await self.client(b"2")
        await self.got(again, b"2")
        for client in (running, again):
            client.transport.loseConnection()  # type: ignore[union-attr]
        await until(lambda: not self.node.sessions, "the sessions' end")
        self.assertTrue(link.up)

    async def test_gateway_moved_to_where_it_was(self) -> None:
        """
        Another address of the same DMZ node: the new link takes the uplink over, and the old one,
        which lasts as long as its session, does not dial to have it back.
        """
        await self.start("tcp", Echo)
        (gateway,) = self.node._config.gateways
        running = await self.client(b"1")
        await self.got(running, b"1")
        older = self.node.links["dmz"]
        name = replace(gateway, address=HostPort("localhost", gateway.address.port))
        told = self.node.reload(replace(self.node._config, gateways=(name,)))
        self.assertEqual(told, ["gateway dmz: changed (address)"])
        newer = self.node.links["dmz"]
        await until(lambda: newer.up and not older.up, "the change")
        await until(self.listening, "the listener")
        self.assertFalse(older._dialler.running)
        running.transport.write(b"2")  # type: ignore[union-attr]
        await self.got(running, b"12")
        self.assertIn(older, list(self.node))
        running.transport.loseConnection()  # type: ignore[union-attr]
        await until(lambda: older not in list(self.node), "the older link's end")
        self.assertTrue(newer.up)

    async def test_pool(self) -> None:
        """Another pool takes effect on the uplink that stands."""
        await self.start("tcp", Echo)
        (gateway,) = self.node._config.gateways
        config = replace(self.node._config, gateways=(replace(gateway, pool=5),))
        self.assertEqual(self.node.reload(config), ["gateway dmz: changed (pool)"])
        await until(lambda: self.node.links["dmz"].state()["idle_channels"]["tls"] == 5)

    async def test_files_that_are_wrong(self) -> None:
        """A service whose files cannot be used leaves everything as it is."""
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        missing = new_folder(self) / "none.pem"
        backend_tls = replace(first.backend_tls, mode="on", ca=missing)
        broken = self.other("other", backend_tls=backend_tls)
        before = self.node._config
        with self.assertRaises(IdentityError):
            self.use(replace(first, max_sessions=1), broken)
        self.assertIs(self.node._config, before)
        self.assertEqual(self.node.published["svc"].sessions.caps.total, 0)
        client = await self.client(b"1")
        await self.got(client, b"1")

    async def test_changing_while_it_is_declared(self) -> None:
        """However fast reloads follow each other, the DMZ has the last one in the end."""
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        for cap in range(1, 50):
            self.use(replace(first, max_sessions=cap))
        (listener,) = self.dmz.listeners
        await until(lambda: listener.offer.max_sessions == 49, "the last cap")

    async def test_many_reloads_under_load(self) -> None:
        """
        Reloads one after the other refuse no client, and leave nothing behind (Lesson 14; 500 of
        them run in the soak).
        """
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        objects = 0
        for turn in range(60):
            caps = replace(first, max_sessions=1_000 + turn)
            self.use(caps, *([self.other("other")] if turn % 2 else []))
            clients = [await self.client(b"x") for _ in range(3)]
            for client in clients:
                await self.got(client, b"x")
                client.transport.abortConnection()  # type: ignore[union-attr]
            await until(lambda: not self.node.sessions, "the sessions' end")
            if turn == 21:  # Both services are there, as at the end.
                objects = _objects()
        # Some may be on their way; one more for each reload would be thirty-eight.
        self.assertLess(_objects(), objects + 20)
        self.assertEqual(self.node.published["svc"].tally.refused, 0)

    async def test_renamed_under_load(self) -> None:
        """
        A service that gets another name on the same listener refuses none of those who come
        meanwhile (Lesson 14); one that is taken away is not found under its name.
        """
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        served: list[str] = []

        async def come_and_go() -> None:
            while len(served) < 200:
                client = await self.client(b"x")
                await until(lambda: client.data or client.over)  # noqa: B023
                served.append("served" if client.data else "refused")
                client.transport.abortConnection()  # type: ignore[union-attr]

        clients = [Deferred.fromCoroutine(come_and_go()) for _ in range(10)]
        for turn in range(10):
            before = len(served)
            self.use(replace(first, name=f"svc-{turn}"))
            await until(lambda: len(served) >= before + 10)  # noqa: B023
        await gatherResults(clients)
        self.assertEqual(set(served), {"served"})
        now = self.node._find("svc-9")
        self.use(self.other("other"))
        self.assertIsNotNone(now)
        self.assertIsNone(self.node._find("svc-9"))
        self.assertIsNotNone(self.node._find("svc-8"))
        self.patch(internal, "FORMER_S", 0.0)
        self.use(replace(self.node._config.services[0], name="another"))
        self.assertIsNone(self.node._find("other"))

    async def test_dmz(self) -> None:
        """
        The DMZ node's own file is read again as well: what its policy does not permit any more
        is closed, what it permits again is opened, and a node that is struck off goes.
        """
        await self.start("tcp", Echo)
        running = await self.client(b"1")
        await self.got(running, b"1")
        config = self.dmz._config
        elsewhere = (ListenRule.parse("127.0.0.2:1-65535"),)
        self.assertEqual(self.dmz.reload(replace(config, listen=elsewhere)), ["listen: changed"])
        self.assertEqual(self.listening(), {})
        # The inside hears of it, and is ready or not, without asking.
        (link,) = self.node.links.values()
        await until(lambda: "policy.listen" in link.refused.get("svc", ""), "its refusal")
        self.assertEqual(self.node.lacking(), ["svc: no gateway"])
        self.dmz.reload(replace(config, max_sessions_per_address=1))
        self.assertEqual(set(self.listening()), {"svc"})
        await until(lambda: not link.refused, "its end")
        self.assertEqual(self.node.lacking(), [])
        self.assertEqual(await self.over(await self.client()), "reset")
        self.dmz.reload(replace(config, nodes=("node-b",)))
        await until(lambda: len(self.dmz.book) == 0, "the node's end")
        running.transport.write(b"2")  # type: ignore[union-attr]
        await self.got(running, b"12")
        told = self.dmz.reload(replace(config, uplink_listen=HostPort("127.0.0.1", 1)))
        self.assertIn("uplink_listen: changed, which takes a restart", told)


def _objects() -> int:
    """How many objects of the program's own classes there are, without those of the tests."""
    gc.collect()
    modules = [str(type(each).__module__) for each in gc.get_objects()]
    return sum(name.startswith("relaygate.") for name in modules) - sum(
        name.startswith("relaygate.test.") for name in modules
    )


class SignalTests(TestCase):
    """Both programs, and SIGHUP."""

    timeout = 120

    async def test_wrong_file(self) -> None:
        """A wrong file is told of in the log, mistake by mistake, and the old one holds."""
        authority = Authority(self)
        path = socket_path(self)
        for role, name, made in (
            (Role.DMZ, "dmz", dmz_config()),
            (Role.INTERNAL, "node-a", internal_config() + f'[admin]\nsocket = "{path}"\n'),
        ):
            node = Node(self, authority, role, name, made)
            node.start()
            await node.logged("relaygate [0-9.]* (DMZ|internal) node", timeout=60)
            node.configure(made.replace("listen", "lissen"))
            node.kill(signal.SIGHUP)
            await node.logged("configuration not changed: .*lissen", timeout=60)
            if role is Role.INTERNAL:
                order = ("reload", "--socket", str(path))
                status, _, err = await deferToThread(call, *order)
                self.assertEqual(status, 1)
                self.assertIn("lissen", err)
            node.configure(made.replace("[[service]]", "[[service]]\nmax_sessions = 5"))
            node.kill(signal.SIGHUP)
            await node.logged("configuration read again: [01] changes", timeout=60)
            if role is Role.INTERNAL:
                node.configure(made)
                self.assertEqual(
                    await deferToThread(call, *order),
                    (0, "service sftp: changed (max_sessions)\n", ""),
                )
            await node.stop()


class LogTests(SessionCase):
    """What the log says of a declaration."""

    async def test_declared_again(self) -> None:
        """Each reload that changes what is offered is declared, others are not."""
        await self.start("tcp", Echo)
        (first,) = self.node._config.services
        link = self.node.links["dmz"]
        await until(lambda: link.up and link.settled)
        with logged() as events:
            self.node.reload(replace(self.node._config, services=(replace(first),)))
            other = replace(first, backends=(HostPort("127.0.0.1", 1),))
            self.node.reload(replace(self.node._config, services=(other,)))
            self.node.reload(replace(self.node._config, services=(replace(other, max_sessions=9),)))
            await until(lambda: lines(events, "services declared"))
        self.assertEqual(len(lines(events, "services declared")), 1)

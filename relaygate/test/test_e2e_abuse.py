"""Strangers at both kinds of port, and a node that has gone bad, beside a transfer at work."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.lobby import LOBBY_LIMIT_S, MAX_IN_LOBBY_PER_ADDRESS
from relaygate.protocols.preamble import OPEN_BYTES
from relaygate.test.gateway import (
    ECHO_PORT,
    SOAK,
    SSH_PORT,
    TCP_PORT,
    UPLINK_PORT,
    Gateway,
    service,
    ssh_service,
    tcp_service,
)
from relaygate.test.netns import Network, require_program
from relaygate.test.openssh import Keys
from relaygate.test.peers import (
    PATIENCE_S,
    Conversation,
    Server,
    dial,
    echo,
    eventually,
    in_thread,
    join,
    make_socket,
    read_exactly,
    says,
)
from relaygate.test.programs import Program, new_folder, pause

FLOOD: Final = 10_000 if SOAK else 2_000
GROWTH_KB: Final = 20 << 10
# What is sent goes on, some megabytes a second, for as long as there is no such file.
UPLOAD: Final = (
    "while [ ! -e over ] && head -c 65536 /dev/urandom; do sleep 0.01; done | tee sent | {}"
)
CLEAR_PORT: Final = 7001
# Twisted accepts up to a hundred before it closes those that were pushed out, a turn later.
ACCEPTED_AT_ONCE: Final = 2 * 100
# Caps per address are there for the others, one of whom comes from here.
HONEST: Final = "203.0.113.3"
# Below what a session may take to be opened.
SOON_S: Final = 15.0
DRIPS: Final = 20
# TLS 1.3's first bytes, as far as a length that is then not filled.
CLIENT_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"


def clean_end(peer: socket.socket) -> bool:
    """Tell whether the peer was ended without a single byte for it."""
    try:
        return peer.recv(1) == b""
    except ConnectionError:
        return True


class AbuseTestCase(TestCase):
    """A gateway, a real transfer that runs beside, and the DMZ node's memory and descriptors."""

    timeout = 600

    async def setUp(self) -> None:  # type: ignore[override]
        backend = f"{Network.private_address}:{ECHO_PORT}"
        clear = service("clear", "tcp", CLEAR_PORT, backend, channel="never")
        services = [ssh_service(), tcp_service(), clear]
        self.gateway = Gateway(self, services, nodes=["node-a", "node-z"])
        # Node-z is enrolled, and its key is in the wrong hands: it has no process of ours.
        self.gateway.internals.pop()
        self.gateway.backend(echo)
        self.keys = Keys(self)
        await self.gateway.sshd(self.keys)
        add = ["ip", "address", "add", f"{HONEST}/24", "dev", "dmz"]
        self.gateway.network.run("outside", add)
        await self.gateway.start()
        self.assertTrue(await in_thread(self.honest_client))
        self.transfer = await self.begin_transfer()
        self.rss_kb = self.gateway.dmz.rss_kb()
        self.kills = 0
        self.most = 0

    async def begin_transfer(self) -> Program:
        """
        Start an upload by ssh that lasts until :meth:`unharmed`, and wait until it is under way.

        It comes from the address that floods do: while one lasts, the DMZ node lets in no more
        from there, so it has to be in before.
        """
        self.folder = new_folder(self)
        copy = self.folder / "copy"
        upload = self.keys.ssh(self.gateway.host, SSH_PORT, f"cat > {shlex.quote(str(copy))}")
        script = f"cd {shlex.quote(str(self.folder))}; {UPLOAD.format(shlex.join(upload))}"
        program = Program(self, "ssh", ["sh", "-c", script], where=self.gateway.outside)
        program.start()
        await eventually(lambda: copy.exists() and copy.stat().st_size > 0, "the upload runs")
        return program

    def descriptors(self) -> int:
        """Count the DMZ node's sockets."""
        folder = Path(f"/proc/{self.gateway.dmz.pid}/fd")
        count = 0
        for entry in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed since it was listed
                count += os.readlink(entry).startswith("socket:")
        return count

    def knock(self, data: bytes = b"") -> socket.socket:
        """Connect to the uplink port from private, and say something."""
        peer = dial(self.gateway.private, Network.dmz_inner_address, UPLINK_PORT)
        self.addCleanup(peer.close)
        with contextlib.suppress(ConnectionError):
            peer.sendall(data)
        return peer

    def come(self, data: bytes = b"") -> socket.socket:
        """Connect to the listener of the SSH service from outside, and say something."""
        peer = self.gateway.client(SSH_PORT)
        self.addCleanup(peer.close)
        with contextlib.suppress(ConnectionError):
            peer.sendall(data)
        return peer

    def honest_client(self) -> bool:
        """Tell whether a client from another address is served, and soon."""
        client = make_socket(self.gateway.outside)
        client.settimeout(SOON_S)
        client.bind((HONEST, 0))
        client.connect((self.gateway.host, TCP_PORT))
        served = says(client, b"still here")
        client.close()
        return served

    async def unharmed(self) -> None:
        """Demand that the node is as it was, and that the transfer has not noticed anything."""
        self.assertLess(self.gateway.dmz.rss_kb() - self.rss_kb, GROWTH_KB)
        self.assertTrue(await in_thread(self.honest_client))
        self.assertTrue(self.transfer.running, self.transfer.log())
        (self.folder / "over").touch()
        self.assertEqual(await self.transfer.ended(240), 0, self.transfer.log())
        sent, stored = (self.folder / "sent").read_bytes(), (self.folder / "copy").read_bytes()
        self.assertTrue(sent == stored, "the transfer is whole")
        # What is left: standing sockets, the pool of idle channels, the transfer's for a moment.
        await eventually(
            lambda: self.descriptors() <= self.at_rest, f"descriptors fall to {self.at_rest}"
        )
        self.assertLess(self.gateway.dmz.rss_kb() - self.rss_kb, GROWTH_KB)
        self.assertNotIn("Traceback", self.gateway.dmz.log())
        lost = self.gateway.dmz.log().count("uplink lost: node=node-a")
        self.assertEqual(lost, self.kills)

    @property
    def at_rest(self) -> int:
        """How many sockets the DMZ node has without clients: listeners, uplink, two pools."""
        # Where clients had to wait, channels were asked for beside the pools', and stay idle there
        # until they are too old, if clients found others meanwhile.
        asked_for = 32
        return 1 + 3 + 1 + 2 * 8 + asked_for + 3


class UplinkPortTests(AbuseTestCase):
    """Strangers at the port for internal nodes."""

    async def test_garbage(self) -> None:
        """Whatever is neither TLS nor a channel is ended without a word."""
        scraps = [
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x00" * 5000,
            os.urandom(100_000),
            b"RLGC",
            b"RLGC\x02" + b"x" * 200,
            b"RLGC\x01" + os.urandom(OPEN_BYTES),
            b"\x16\x03\x01" + os.urandom(5000),
            b"\x16\xff\xff\xff\xff" + os.urandom(20_000),
            CLIENT_HELLO + os.urandom(501),
            b"\x16\x03\x01\x00\x02\x01\x00",
        ]
        peers = [self.knock(scrap) for _ in range(10) for scrap in scraps]
        for peer in peers:
            with contextlib.suppress(OSError):  # it has been reset already
                peer.shutdown(socket.SHUT_WR)
            answer = await in_thread(self.answer, peer)
            # A TLS server may say with an alert (21, RFC 8446 section 6) that it was no TLS.
            self.assertIn(answer[:1], (b"", b"\x15"))
            self.assertLess(len(answer), 10)
        await self.unharmed()

    def answer(self, peer: socket.socket) -> bytes:
        """Return all that comes until the connection ends, in order or not."""
        said = b""
        with contextlib.suppress(ConnectionError):
            while piece := peer.recv(100):
                said += piece
        return said

    async def test_silence_and_drips(self) -> None:
        """Silence and slow drips end at the lobby's limit, and keep no node out (Lesson 5)."""
        silent = [self.knock() for _ in range(DRIPS)]
        tls = [self.knock(CLIENT_HELLO[:1]) for _ in range(DRIPS)]
        channels = [self.knock(b"R") for _ in range(DRIPS)]
        for number in range(1, 9):
            for peers, words in ((tls, CLIENT_HELLO), (channels, b"RLGC\x01\x00\x00\x00\x00")):
                for peer in peers:
                    # One that has been ended already, on a busy machine, is not to fail here.
                    with contextlib.suppress(ConnectionError):
                        peer.sendall(words[number : number + 1])
            last_drip = time.monotonic()
            await pause(LOBBY_LIMIT_S / 10)
        for peer in silent + tls + channels:
            self.assertTrue(await in_thread(clean_end, peer))
        # Had the last drip begun the limit anew, it would end later.
        self.assertLess(time.monotonic() - last_drip, LOBBY_LIMIT_S - 2)
        await self.unharmed()

    async def test_flood(self) -> None:
        """Thousands who connect and say nothing push out each other, and no node."""

        def flood() -> None:
            crowd = [make_socket(self.gateway.private) for _ in range(FLOOD)]
            for number, peer in enumerate(crowd):
                peer.connect((Network.dmz_inner_address, UPLINK_PORT))
                if number % 50 == 0:
                    self.most = max(self.most, self.descriptors())
            for peer in crowd:
                peer.close()

        await in_thread(flood)
        self.assertLess(self.most, self.at_rest + MAX_IN_LOBBY_PER_ADDRESS + ACCEPTED_AT_ONCE)
        # A node comes in while strangers fill the lobby.
        crowd = [self.knock() for _ in range(2 * MAX_IN_LOBBY_PER_ADDRESS)]
        self.gateway.node.kill()
        await self.gateway.closes(TCP_PORT, PATIENCE_S)
        await self.gateway.node.ended()
        self.gateway.node.start()
        await self.gateway.listens({("0.0.0.0", SSH_PORT), ("0.0.0.0", TCP_PORT)})
        for peer in crowd:
            peer.close()
        # Its sessions died with it, the transfer among them.
        self.assertNotEqual(await self.transfer.ended(60), 0)
        self.transfer = await self.begin_transfer()
        self.kills = 1
        await self.unharmed()


class StolenKeyTests(AbuseTestCase):
    """Whoever holds an enrolled node's key, and speaks something else than a node does."""

    def enrolled(self, protocol: bytes) -> ssl.SSLSocket:
        """Return a connection to the uplink port with the key of node-z."""
        context = ssl.create_default_context(cafile=str(self.gateway.authority.folder / "ca.pem"))
        folder = self.gateway.authority.folder
        context.load_cert_chain(folder / "node-z.pem", folder / "node-z.key")
        context.set_alpn_protocols([protocol.decode()])
        made = context.wrap_socket(self.knock(), server_hostname="dmz")
        self.addCleanup(made.close)
        return made

    def boxes(self) -> Iterator[bytes]:
        """Yield what is no AMP, too much of it, or not ours."""
        yield os.urandom(100_000)
        yield b"\xff" * 1_000_000
        yield b"\x00" * 100_000
        # Keys without an end: a box that only grows.
        yield b"".join(
            b"\x00\x06" + f"{number:06}".encode() + b"\xff\xff" + b"v" * 65535
            for number in range(400)
        )
        ask = b"\x00\x04_ask\x00\x011\x00\x08_command"
        yield (ask + b"\x00\x05Hello\x00\x00") * 20_000
        yield (ask + b"\x00\x08StartTLS\x00\x00") * 10_000
        yield (ask + b"\x00\x07Declare\x00\x04page\x00\x010\x00\x00") * 10_000
        yield (ask + b"\x00\x04Ping\x00\x00") * 200_000

    async def test_amp(self) -> None:
        """Huge, endless and foreign AMP harms nobody but whoever sends it."""
        for box in self.boxes():
            peer = await in_thread(self.enrolled, ALPN_UPLINK)

            def pour(peer: ssl.SSLSocket = peer, box: bytes = box) -> None:
                # Answers are not read: the node must not keep them for ever either.
                with contextlib.suppress(OSError):
                    peer.sendall(box)

            await in_thread(pour)
            self.assertLess(self.gateway.dmz.rss_kb() - self.rss_kb, GROWTH_KB)
            peer.close()
        await self.unharmed()

    async def test_channel_of_another(self) -> None:
        """A stolen key opens no channel of another node's uplink, and nothing but a channel."""
        for data in (os.urandom(200_000), b"RLGC\x01" + os.urandom(OPEN_BYTES), b"\x00" * 1000):
            peer = await in_thread(self.enrolled, ALPN_CHANNEL)
            with contextlib.suppress(OSError):
                peer.sendall(data)
            self.assertTrue(await in_thread(self.ended_in_silence, peer))
        await self.unharmed()

    async def test_no_early_data(self) -> None:
        """No ticket lets a client send before the handshake, which could be replayed (TLS 1.3)."""
        folder = self.gateway.authority.folder
        program = [require_program("openssl"), "s_client", "-alpn", ALPN_CHANNEL.decode()]
        program += ["-connect", f"{Network.dmz_inner_address}:{UPLINK_PORT}"]
        program += ["-cert", str(folder / "node-z.pem"), "-key", str(folder / "node-z.key")]
        program += ["-CAfile", str(folder / "ca.pem"), "-verify_return_error"]
        client = Conversation(self.gateway.private, program)
        await in_thread(client.hear, b"Post-Handshake New Session Ticket arrived")
        await in_thread(client.hear, b"Max Early Data: 0\n")
        await in_thread(client.end)
        await self.unharmed()

    def ended_in_silence(self, peer: ssl.SSLSocket) -> bool:
        """Tell whether no word of the application came before the end."""
        try:
            return peer.recv(1) == b""
        except OSError:
            return True


class ListenerTests(AbuseTestCase):
    """Strangers at a published service."""

    async def test_garbage_and_drips(self) -> None:
        """Garbage ends at once; who drips or says nothing is held within bounds."""
        garbage = [self.come(os.urandom(3000)) for _ in range(20)]
        tls = [self.come(CLIENT_HELLO + os.urandom(500)) for _ in range(20)]
        for peer in garbage + tls:
            self.assertTrue(await in_thread(self.only_the_banner, peer))
        dripping = [self.come(b"S") for _ in range(DRIPS)]
        for byte in b"SH-2.0-":
            for peer in dripping:
                peer.sendall(bytes([byte]))
            await pause(0.1)
        for peer in dripping:
            peer.close()
        await self.unharmed()

    def only_the_banner(self, peer: socket.socket) -> bool:
        """Tell whether nothing came but perhaps the server's identification, then the end."""
        said = b""
        with contextlib.suppress(ConnectionError):
            while piece := peer.recv(1000):
                said += piece
        return said == b"" or said.startswith(b"SSH-2.0-OpenSSH")

    async def test_flood(self) -> None:
        """Thousands of connections that come and go leave the node as it was."""
        await self.flood(TCP_PORT, lambda peer: peer.close())

    async def test_flood_that_stays(self) -> None:
        """Thousands that come and stay are held to the caps, and the others still served."""
        await self.flood(CLEAR_PORT, lambda peer: None)

    async def flood(self, port: int, after: Callable[[socket.socket], object]) -> None:
        """Connect many times to a TCP service, do *after* with each; close what is left."""

        def come() -> None:
            crowd = []
            for _ in range(FLOOD):
                peer = make_socket(self.gateway.outside)
                crowd.append(peer)
                with contextlib.suppress(ConnectionError):
                    peer.connect((self.gateway.host, port))
                after(peer)
                if len(crowd) % (FLOOD // 4) == 0:
                    served.append(self.honest_client())
            self.most = self.descriptors()
            for peer in crowd:
                peer.close()

        served: list[bool] = []
        await in_thread(come)
        self.assertEqual(served, [True] * 4)
        # The default of max_sessions_per_address is 1,000 sessions, of two sockets each.
        self.assertLess(self.most, self.at_rest + 2 * 1000 + 256)
        await self.unharmed()


class ReplayTests(TestCase):
    """What somebody on the wire between the nodes can do with what he sees."""

    timeout = 180

    async def test_replayed_openings(self) -> None:
        """The opening of a clear channel works once; a second time it is turned away."""
        address, port = Network.private_address, UPLINK_PORT + 1
        gateway = Gateway(self, [ssh_service()], uplink=f"{address}:{port}")
        seen: list[bytes] = []

        def listen_in(peer: socket.socket) -> None:
            """Pass on what an internal node says, and note it; answers pass by a thread."""
            onward = dial(gateway.private, Network.dmz_inner_address, UPLINK_PORT)
            peer.settimeout(None)
            onward.settimeout(None)
            first = peer.recv(1 << 16)
            seen.append(first)
            onward.sendall(first)
            join(peer, onward)

        Server(self, gateway.private, address, port, listen_in)
        await gateway.start()
        await eventually(lambda: self.openings(seen) != [], "channels are opened")
        gateway.backend(echo, 2022)
        replayed = []
        for opening in [*self.openings(seen), *self.openings(seen)[:1] * 5]:
            peer = dial(gateway.private, Network.dmz_inner_address, UPLINK_PORT)
            self.addCleanup(peer.close)
            peer.sendall(opening)
            replayed.append(peer)
        for peer in replayed:
            self.assertTrue(await in_thread(clean_end, peer))
        self.assertIn("the channel's proof was used before", gateway.dmz.log())
        # A changed serial number has the wrong proof.
        forged = bytearray(self.openings(seen)[0])
        forged[-33] ^= 0xFF
        peer = dial(gateway.private, Network.dmz_inner_address, UPLINK_PORT)
        self.addCleanup(peer.close)
        peer.sendall(forged)
        self.assertTrue(await in_thread(clean_end, peer))
        self.assertIn("the channel's proof is wrong", gateway.dmz.log())
        client = gateway.client(SSH_PORT)
        client.sendall(b"SSH-2.0-honest\r\n")
        self.assertEqual(await in_thread(read_exactly, client, 16), b"SSH-2.0-honest\r\n")
        client.close()

    def openings(self, seen: list[bytes]) -> list[bytes]:
        """Return the openings of clear channels among what was seen."""
        return [first for first in seen if first.startswith(b"RLGC") and len(first) == OPEN_BYTES]

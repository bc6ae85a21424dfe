"""Tests of fixed forwards: TCP, FTP that is understood, and FTPS that passes."""

from __future__ import annotations

import re
import socket
from typing import Any

from relaygate.addresses import HostPort
from relaygate.config import BackendTLSConfig
from relaygate.config.forward import ForwardConfig, ForwardFTPConfig
from relaygate.test.farend import Ending, until
from relaygate.test.forwardnodes import (
    EXIT,
    INSIDE,
    PARTNER,
    PROGRAM,
    SPAN,
    STRANGER,
    ForwardCase,
)
from relaygate.test.ftpnodes import key_files
from relaygate.test.ftppeers import Backend, BackendLine, Line
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder
from relaygate.test.test_servicetls import authority, client_context
from relaygate.test.wire import lines, logged


class FixedTests(ForwardCase):
    """Fixed forwards of TCP."""

    async def test_tcp(self) -> None:
        """A port leads to a partner, and its first word comes before the program's."""
        partner = self.partner()
        entry = self.entry("tcp", target=HostPort(PARTNER, partner.port))
        await self.begin(entry)
        program = self.program(entry)
        far = await partner.peer()
        far.send(b"hello")
        await program.has(5)
        await self.echoes(program, far)
        self.assertEqual(partner.sources[0][0], EXIT)
        await self.all_over()

    async def test_refused(self) -> None:
        """A program without words of its own sees a reset, and no empty file."""
        partner = self.partner()
        partner.close()
        entry = self.entry("tcp", target=HostPort(PARTNER, partner.port))
        await self.begin(entry)
        program = self.program(entry)
        self.assertIs(await program.ended(), Ending.RESET)
        await self.all_over()


class FTPForwardCase(ForwardCase):
    """A partner's FTP server, and an entry that leads to it."""

    async def start(
        self, *, partner_tls: str = "off", tls: bool = False, **ftp: Any
    ) -> ForwardConfig:
        """Start all; *ftp* is more of the entry's own."""
        self.server = Backend(PARTNER, implicit=partner_tls == "on")
        self.addCleanup(self.server.close)
        more: dict[str, Any] = {}
        if partner_tls != "off":
            self.server.secured_data = True
            ca = new_folder(self) / "partner.pem"
            ca.write_bytes(authority("one").cert_pem.bytes())
            more["partner_tls"] = BackendTLSConfig(
                "on" if partner_tls == "on" else "explicit", ca, "ftp.inside"
            )
        if tls:
            more["tls"] = key_files(self)
            ftp = {"tls": "allow", "data_tls": "allow"} | ftp
        entry = self.entry(
            "ftp",
            target=HostPort(PARTNER, self.server.port),
            ftp=ForwardFTPConfig(**ftp),
            **more,
        )
        await self.begin(entry, connect=[f"{PARTNER}:{self.server.port}"])
        return entry

    async def logged_in(
        self, entry: ForwardConfig, *, tls: bool = False
    ) -> tuple[Line, BackendLine]:
        """A program that has logged in, and its session's end at the partner's."""
        program = self.program(entry)
        await program.reply(220)
        if tls:
            await program.ask(b"AUTH TLS", 234)
            await program.secure(client_context())
            await program.ask(b"PBSZ 0", 200)
            await program.ask(b"PROT P", 200)
        await program.ask(b"USER mina", 331)
        await program.ask(b"PASS sesame", 230)
        return program, self.server.controls[-1]

    def connect(self, host: str, port: int, source: str = PROGRAM) -> Line:
        """A data connection of the program's."""
        made = Line(socket.create_connection((host, port), 5, (source, 0)))
        self.addCleanup(made.close)
        return made

    async def passive(self, program: Line) -> int:
        """Ask for a data port."""
        self.server.forget()
        reply = await program.ask(b"PASV", 227)
        numbers = [int(each) for each in re.findall(rb"\d+", reply[4:])]
        # The entry's own address, and a port there.
        self.assertEqual(".".join(map(str, numbers[:4])), INSIDE)
        return numbers[4] * 256 + numbers[5]

    async def download(self, program: Line, control: BackendLine, *, tls: bool = False) -> None:
        """Fetch a file, passively."""
        data = self.connect(INSIDE, await self.passive(program))
        await program.ask(b"RETR file", 150)
        if tls:
            program.secure_data(data)
        far = await self.server.data()
        far.send(b"content" * 10_000)
        far.finish()
        await data.got(b"content" * 10_000)
        data.close()
        control.say(b"226 done")
        await program.reply(226)


class FTPTests(FTPForwardCase):
    """FTP that is understood: requirements 16 to 25, with the roles turned round."""

    async def test_passive(self) -> None:
        """Requirement 69: the program's data port is the entry's, the partner's is dialled."""
        entry = await self.start()
        program, control = await self.logged_in(entry)
        await self.download(program, control)
        self.assertEqual(control.commands[-2:], [b"EPSV", b"RETR file"])
        await program.ask(b"QUIT", 221)
        program.close()
        await self.all_over()

    async def test_host(self) -> None:
        """Requirement 88: HOST names the entry, which no partner is to hear of."""
        entry = await self.start()
        program = self.program(entry)
        await program.reply(220)
        await program.ask(f"HOST {INSIDE}".encode(), 502)
        await program.ask(b"USER mina", 331)
        self.assertEqual(self.server.controls[-1].commands, [b"USER mina"])

    async def test_upload(self) -> None:
        """What a program sends is whole at the partner's before it hears so."""
        entry = await self.start()
        program, control = await self.logged_in(entry)
        data = self.connect(INSIDE, await self.passive(program))
        await program.ask(b"STOR file", 150)
        far = await self.server.data()
        data.send(b"content" * 50_000)
        data.finish()
        await far.got(b"content" * 50_000)
        far.close()
        control.say(b"226 done")
        await program.reply(226)

    async def test_hostile_passive_answer(self) -> None:
        """Requirement 17: the address in a partner's 227 is never dialled, its port is."""
        entry = await self.start()
        inside = self.partner("127.0.0.8")
        program, control = await self.logged_in(entry)
        self.server.answers[b"EPSV"] = b"500 no"

        def answer(line: BackendLine, _command: bytes) -> None:
            line.say(b"227 Entering (127,0,0,8,%d,%d)" % divmod(self.server.listen(), 256))

        self.server.answers[b"PASV"] = answer
        await self.download(program, control)
        self.server.answers[b"PASV"] = b"227 Entering (127,0,0,8,%d,%d)" % divmod(inside.port, 256)
        await program.ask(b"PASV", 227)
        await program.ask(b"LIST", 425)
        # Nor are ports that belong to services.
        self.server.answers[b"PASV"] = b"227 Entering (127,0,0,2,0,22)"
        await program.ask(b"PASV", 227)
        await program.ask(b"LIST", 425)
        self.assertEqual(inside.peers, [])

    async def test_strangers(self) -> None:
        """Requirement 22: the entry's data port is the program's alone."""
        entry = await self.start()
        program, control = await self.logged_in(entry)
        port = await self.passive(program)
        stranger = self.connect(INSIDE, port, STRANGER)
        await stranger.ended()
        data = self.connect(INSIDE, port)
        await program.ask(b"RETR file", 150)
        far = await self.server.data()
        far.finish()
        await data.got(b"")
        control.say(b"226 done")
        data.close()
        await program.reply(226)

    async def active(self, entry: ForwardConfig, verb: bytes = b"PORT") -> tuple[Line, int]:
        """A program that waits for data at a port, and the DMZ's port that the partner is told."""
        self.server.answers[b"PORT"] = b"200 port"
        program, control = await self.logged_in(entry)
        self.waiting = socket.create_server((PROGRAM, 0))
        self.addCleanup(self.waiting.close)
        port = self.waiting.getsockname()[1]
        told = b"PORT 127,0,0,4,%d,%d" % divmod(port, 256)
        if verb == b"EPRT":
            told = b"EPRT |1|%s|%d|" % (PROGRAM.encode(), port)
        await program.ask(told, 200)
        numbers = [int(each) for each in re.findall(rb"\d+", control.commands[-1])]
        # Nothing of the inside's: the DMZ's address, and a port of its range.
        self.assertEqual(".".join(map(str, numbers[:4])), EXIT)
        return program, numbers[4] * 256 + numbers[5]

    async def test_active(self) -> None:
        """Requirement 69: PORT becomes one of the DMZ's, which the partner alone reaches."""
        entry = await self.start(mode="as-client", active_ports=SPAN)
        for verb in (b"PORT", b"EPRT"):
            program, port = await self.active(entry, verb)
            self.assertTrue(SPAN[0] <= port <= SPAN[1])
            stranger = self.connect(EXIT, port, STRANGER)
            await stranger.ended()
            program.say(b"RETR file")
            far = self.connect(EXIT, port, PARTNER)
            await program.reply(150)
            skt, address = self.waiting.accept()
            self.assertEqual(address[0], INSIDE)
            data = Line(skt)
            self.addCleanup(data.close)
            far.send(b"content" * 10_000)
            far.finish()
            await data.got(b"content" * 10_000)
            data.close()
            self.server.controls[-1].say(b"226 done")
            await program.reply(226)
            await program.ask(b"QUIT", 221)
            program.close()
        await self.all_over()

    async def test_passive_where_active_is_possible(self) -> None:
        """With the mode of the program a passive one is passive to the partner."""
        entry = await self.start(mode="as-client", active_ports=SPAN)
        program, control = await self.logged_in(entry)
        await self.download(program, control)

    async def test_active_to_a_passive_partner(self) -> None:
        """Without ports in the DMZ, PORT is served by a passive connection to the partner."""
        entry = await self.start()
        program, _ = await self.logged_in(entry)
        waiting = socket.create_server((PROGRAM, 0))
        self.addCleanup(waiting.close)
        await program.ask(b"PORT 127,0,0,4,%d,%d" % divmod(waiting.getsockname()[1], 256), 200)
        await program.ask(b"LIST", 150)
        far = await self.server.data()
        skt, _ = waiting.accept()
        data = Line(skt)
        self.addCleanup(data.close)
        far.send(b"list")
        far.finish()
        await data.got(b"list")

    async def test_bounce(self) -> None:
        """Requirement 24: PORT names the program's own address, or is refused and audited."""
        entry = await self.start()
        program, _ = await self.logged_in(entry)
        with logged() as events:
            await program.ask(b"PORT 127,0,0,5,99,99", 501)
            await program.ask(b"PORT 127,0,0,4,0,22", 501)
        self.assertEqual(len(lines(events, " refused: ")), 2)

    async def test_refusals(self) -> None:
        """Requirement 7: who is not let out hears 421, with the reason, and it is audited."""
        entry = await self.start()
        self.dmz.egress.policy = type(self.dmz.egress.policy)()
        with logged() as events:
            program = self.program(entry)
            self.assertIn(b"policy", await program.reply(421))
            await program.ended()
            program.close()
            await self.all_over()
        self.assertTrue(lines(events, " refused: "))

    async def test_transfers_are_logged(self) -> None:
        """Logins and files leave their lines, as those of a published service."""
        entry = await self.start()
        with logged() as events:
            program, control = await self.logged_in(entry)
            await self.download(program, control)
            await program.ask(b"QUIT", 221)
            program.close()
            await self.all_over()
        (login,) = lines(events, " login: entry=ftp")
        self.assertIn("user=mina result=ok", login)
        (transfer,) = lines(events, " transfer: entry=ftp")
        self.assertIn("verb=RETR path=file direction=download bytes=70000", transfer)
        self.assertNotIn("sesame", "\n".join(lines(events)))


class FTPSTests(FTPForwardCase):
    """TLS on either side, and FTPS that passes."""

    async def test_explicit_to_the_partner(self) -> None:
        """A program in clear, and a partner by AUTH TLS that is verified."""
        entry = await self.start(partner_tls="explicit")
        program, control = await self.logged_in(entry)
        self.assertEqual(control.commands[:3], [b"AUTH TLS", b"PBSZ 0", b"PROT P"])
        await self.download(program, control)

    async def test_implicit_to_the_partner(self) -> None:
        """TLS from the first byte."""
        entry = await self.start(partner_tls="on")
        program, control = await self.logged_in(entry)
        await self.download(program, control)

    async def test_tls_of_the_program(self) -> None:
        """A program by AUTH TLS, and a partner by another one."""
        entry = await self.start(partner_tls="explicit", tls=True)
        program, control = await self.logged_in(entry, tls=True)
        await self.download(program, control, tls=True)

    async def test_wrong_certificate(self) -> None:
        """Requirement 44: a partner that is not who it should be hears no password."""
        entry = await self.start(partner_tls="explicit")
        entries = self.node.forwards.entries["ftp"]
        assert entries.partner_tls is not None
        entries.partner_tls._name = "ftp.other"
        program = self.program(entry)
        await program.reply(421)
        await program.ended()
        self.assertEqual(self.server.controls[-1].commands, [b"AUTH TLS"])

    async def test_pass(self) -> None:
        """FTPS that passes unopened, with the partner's data ports one to one."""
        partner = self.partner()
        at = free_port(PARTNER)
        entry = self.entry(
            "ftp",
            target=HostPort(PARTNER, partner.port),
            ftp=ForwardFTPConfig(tls="pass", data_ports=(at, at)),
        )
        await self.begin(entry, connect=[f"{PARTNER}:{partner.port}"])
        # Without a session nobody is served there.
        early = self.connect(INSIDE, at)
        await early.ended()
        program = self.program(entry)
        far = await partner.peer()
        far.send(b"\x16")
        await program.has(1)
        door = socket.create_server((PARTNER, at))
        self.addCleanup(door.close)
        stranger = self.connect(INSIDE, at, STRANGER)
        await stranger.ended()
        data = self.connect(INSIDE, at)
        await until(lambda: self.dmz.transfers.running, "the data connection")
        skt, address = door.accept()
        self.assertEqual(address[0], EXIT)
        served = Line(skt)
        self.addCleanup(served.close)
        await self.echoes(data, served)
        await self.echoes(program, far)
        await self.all_over()

"""What holds for an FTP session whatever happens, in whatever order."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.ftp import Reply
from relaygate.protocols.ftpalg import FTPSession
from relaygate.protocols.ftpeffects import (
    CloseData,
    DataEnd,
    DialActive,
    DialBackendData,
    Direction,
    Effect,
    EndSession,
    FTPPolicy,
    ListenBackendData,
    OpenPassive,
    SendCommand,
    SendReply,
    StartData,
    TLSMode,
    TransferSeen,
    Use,
)
from relaygate.test.ftpscript import CLIENT, PUBLIC, command
from relaygate.test.properties import given, settings, st

LINES = (
    *("USER joe", "PASS x", "ACCT x", "REIN", "HOST a", "FEAT", "QUIT", "ABOR", "STAT", "STAT a"),
    *("PASV", "EPSV", "EPSV ALL", "EPSV 2", "PORT 192,0,2,7,8,1", "EPRT |1|192.0.2.7|2049|"),
    *("PORT 10,0,0,5,8,1", "LPRT 4,1", "AUTH TLS", "PBSZ 0", "PROT P", "PROT C", "CCC", "MODE B"),
    *("RETR a", "STOR a", "APPE a", "STOU", "LIST", "NLST", "MLSD", "REST 1", "SITE x", "GET /"),
)
REPLIES = (
    *("110 a", "150 a", "200 a", "202 a", "211 a", "220 a", "221 a", "225 a", "226 a", "230 a"),
    *("227 (10,0,0,5,8,1)", "229 (|||4000|)", "234 a", "331 a", "332 a", "350 a", "421 a", "425 a"),
    *("426 a", "450 a", "500 a", "502 a", "530 a", "534 a", "550 a", "220 10.0.0.5", "228 a"),
)
POLICIES = st.builds(
    FTPPolicy,
    control=st.sampled_from(Use),
    data=st.sampled_from(Use),
    implicit=st.booleans(),
    backend=st.sampled_from(TLSMode),
    backend_data=st.booleans(),
    backend_active=st.booleans(),
)
SENT = (
    *("SITE", "SITE", "PASV", "PASV", "EPSV", "PORT 192,0,2,7,8,1", "PORT 1", "RETR", "RETR"),
    *("STOR", "ABOR", "PBSZ 0", "REST", "XLST"),
)
NUMBERS = st.integers(1, 4)
# Most sessions are to come further than the greeting, so the likely inputs come more than once.
STEPS = st.one_of(
    st.tuples(st.just("client"), st.sampled_from(LINES)),
    st.tuples(st.just("client"), st.sampled_from(["USER joe", "PASV", "RETR a", "ABOR", "STAT"])),
    st.tuples(st.just("backend"), st.sampled_from(REPLIES)),
    st.tuples(st.just("backend"), st.sampled_from(["220 a", "230 a", "229 (|||4000|)", "150 a"])),
    st.tuples(
        st.sampled_from(["opened", "listening", "ready", "dialled", "failed", "ended", "broken"]),
        NUMBERS,
    ),
    st.tuples(st.sampled_from(["client_secured", "backend_secured", "timed_out"]), st.just("")),
    st.tuples(st.sampled_from(["client_lost", "backend_lost", "stop"]), st.just("")),
)


def reply(line: str) -> Reply:
    """Make a reply of one line."""
    return Reply(int(line[:3]), (line.encode(),))


def perform(session: FTPSession, kind: str, what: str | int) -> list[Effect]:
    """Give a session one input."""
    if isinstance(what, int):
        by_number: dict[str, Callable[[int], list[Effect]]] = {
            "opened": lambda number: session.passive_opened(number, PUBLIC, 50000),
            "listening": lambda number: session.backend_listening(number, "10.0.0.9", 2049),
            "ready": session.backend_data_ready,
            "dialled": session.active_dialled,
            "failed": session.data_failed,
            "ended": lambda number: session.data_ended(number, DataEnd.WHOLE),
            "broken": lambda number: session.data_ended(number, DataEnd.CLIENT_BROKE),
        }
        return by_number[kind](what)
    if kind == "client":
        return session.command_received(command(what))
    if kind == "backend":
        return session.reply_received(reply(what))
    effects: list[Effect] = getattr(session, kind)()
    return effects


class Ledger:
    """Holds a session to what must always be so."""

    def __init__(self, test: SynchronousTestCase, policy: FTPPolicy) -> None:
        self.test = test
        self.policy = policy
        self.known: set[int] = set()  # transfers that may hold something
        self.begun: set[int] = set()  # those whose data was started
        self.closed: set[int] = set()
        self.ended = False

    def take(self, effects: Iterable[Effect]) -> None:
        """Check some effects, one by one."""
        for effect in effects:
            self.test.assertFalse(self.ended, f"{effect} behind the end")
            self._take(effect)
            prepared = self.known - self.begun
            self.test.assertLessEqual(len(prepared), 1, "two transfers are prepared")
            self.test.assertLessEqual(len(self.begun), 1, "two transfers are in flight")

    def _take(self, effect: Effect) -> None:
        if isinstance(effect, OpenPassive | ListenBackendData | DialBackendData | DialActive):
            self.known.add(effect.transfer)
        elif isinstance(effect, StartData):
            self.test.assertIn(effect.transfer, self.known)
            self.test.assertNotIn(effect.transfer, self.begun)
            self.begun.add(effect.transfer)
        elif isinstance(effect, CloseData):
            self.test.assertNotIn(effect.transfer, self.closed, "given back twice")
            self.closed.add(effect.transfer)
            self.over(effect.transfer)
        elif isinstance(effect, SendReply):
            self.test.assertNotIn(b"10.0.0.5", bytes(effect.reply))
            self.test.assertNotIn(b"10,0,0,5", bytes(effect.reply))
            self.test.assertNotEqual(effect.reply.code, 228)
        elif isinstance(effect, SendCommand):
            foreign = {"AUTH", "PBSZ", "PROT"} if self.policy.backend is TLSMode.OFF else set()
            foreign |= {"EPSV", "PASV"} if self.policy.backend_active else {"PORT", "EPRT"}
            self.test.assertNotIn(effect.command.verb, foreign | {"LPRT", "CCC", "GET"})
        elif isinstance(effect, EndSession):
            self.ended = True

    def over(self, number: int) -> None:
        """A transfer holds nothing any more."""
        self.known.discard(number)
        self.begun.discard(number)


class AnyOrderTests(SynchronousTestCase):
    """Peers and sockets that do anything at any time."""

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(POLICIES, st.lists(STEPS, max_size=60), st.booleans())
    def test_any_inputs(
        self, policy: FTPPolicy, steps: list[tuple[str, str | int]], begun: bool
    ) -> None:
        """Any inputs raise nothing, break no rule, and lead to nothing behind the end."""
        session = FTPSession(policy, CLIENT, ["10.0.0.5", "10.0.0.9"], PUBLIC)
        ledger = Ledger(self, policy)
        ledger.take(session.begin())
        if begun:
            for side, line in (("backend", "220 a"), ("client", "USER joe"), ("backend", "230 a")):
                ledger.take(perform(session, side, line))
        for kind, what in steps:
            ledger.take(perform(session, kind, what))
            if isinstance(what, int) and kind in ("ended", "broken") and what in ledger.begun:
                ledger.over(what)


class Backend:
    """A server that does one thing after the other, and says which command it answers."""

    def __init__(self, choose: random.Random) -> None:
        self.choose = choose
        self.due: deque[str] = deque()
        self.begun = ""  # the transfer whose final reply is due
        self.data_over = False
        self.data_lost = False  # already before the transfer begins
        self.has_port = False  # one that was asked for, and not used

    def act(self) -> list[str]:
        """Do one thing, and return the replies that it brings."""
        if self.begun:
            if "ABOR" in self.due:
                self.due.remove("ABOR")
                self.begun = ""
                return ["426 Aborted.", "226 ABOR done."]
            if not self.data_over:
                return []
            answer, self.begun = f"226 {self.begun}", ""
            return [answer]
        if not self.due:
            return []
        line = self.due.popleft()
        verb = line.partition(" ")[0]
        if verb in ("EPSV", "PASV"):
            good = "229 (|||4000|)" if verb == "EPSV" else "227 (10,0,0,5,15,160)"
            answer = self.choose.choice([good, good, "500 What?" if verb == "EPSV" else "425 No."])
            self.has_port = answer == good
            return [answer]
        if verb in ("RETR", "STOR", "LIST") and not self.has_port:
            return ["425 Use PASV."]
        if verb in ("RETR", "STOR", "LIST") and self.choose.random() < 0.7:
            self.begun, self.data_over, self.has_port = line, self.data_lost, False
            return ["150 " + line]
        if verb in ("RETR", "STOR", "LIST"):
            return ["550 " + line]
        return [f"{225 if verb == 'ABOR' else 200} {line}"]


class World:
    """A session between a client that sends its lines, a backend, and sockets that may fail."""

    def __init__(self, test: SynchronousTestCase, lines: list[str], choose: random.Random) -> None:
        self.choose = choose
        self.lines = deque(lines)
        self.ledger = Ledger(test, FTPPolicy())
        self.backend = Backend(choose)
        self.pending: list[tuple[str, int]] = []
        self.finals: list[Reply] = []
        self.seen: list[TransferSeen] = []
        self.session = FTPSession(FTPPolicy(), CLIENT)
        self.take(self.session.begin())
        for kind, what in (("backend", "220 a"), ("client", "USER joe")):
            self.take(perform(self.session, kind, what))
        self.backend.due.clear()
        self.take(self.session.reply_received(reply("230 a")))
        self.finals.clear()

    def take(self, effects: list[Effect]) -> None:
        """Perform effects as far as that needs no time."""
        self.ledger.take(effects)
        for effect in effects:
            if isinstance(effect, SendReply):
                if not effect.reply.preliminary:
                    self.finals.append(effect.reply)
            elif isinstance(effect, SendCommand):
                self.backend.due.append(bytes(effect.command).decode().strip())
            elif isinstance(effect, OpenPassive):
                self.pending.append(("opened", effect.transfer))
            elif isinstance(effect, DialBackendData):
                self.backend.data_lost = False
                self.pending.append(("ready", effect.transfer))
            elif isinstance(effect, DialActive):
                self.pending.append(("dialled", effect.transfer))
            elif isinstance(effect, StartData):
                self.pending.append(("ended", effect.transfer))
            elif isinstance(effect, CloseData):
                self.pending = [item for item in self.pending if item[1] != effect.transfer]
                self.backend.data_over = self.backend.data_lost = True
            elif isinstance(effect, TransferSeen):
                self.seen.append(effect)

    def step(self) -> bool:
        """Let one of those that can do something do it; return whether anyone could."""
        moves = []
        if self.lines:
            moves.append(self._client)
        if self.backend.due or (self.backend.begun and self.backend.data_over):
            moves.append(self._backend)
        if self.pending:
            moves.append(self._socket)
        if not moves:
            return False
        self.choose.choice(moves)()
        return True

    def _client(self) -> None:
        self.take(perform(self.session, "client", self.lines.popleft()))

    def _backend(self) -> None:
        for line in self.backend.act():
            self.take(self.session.reply_received(reply(line)))

    def _socket(self) -> None:
        kind, number = self.pending.pop(self.choose.randrange(len(self.pending)))
        if kind == "ended":
            self.backend.data_over = True
            self.ledger.over(number)
            kind = self.choose.choice(["ended", "ended", "broken"])
        elif self.choose.random() < 0.2:
            kind = "failed"
        self.take(perform(self.session, kind, number))


class OrderTests(SynchronousTestCase):
    """Peers that keep to the protocol, at any speed."""

    @settings(max_examples=300, deadline=None, derandomize=True)
    @given(
        st.lists(
            st.sampled_from(SENT),
            max_size=30,
        ),
        st.integers(0, 1 << 30),
    )
    def test_one_final_reply_each(self, verbs: list[str], seed: int) -> None:
        """Each command has one final reply, in the order of commands (Requirement 5)."""
        numbered = ("SITE", "RETR", "STOR", "REST", "XLST")
        lines = [f"{verb} {at}" if verb in numbered else verb for at, verb in enumerate(verbs)]
        world = World(self, lines, random.Random(seed))
        for _ in range(40 * len(lines) + 1):
            if not world.step():
                break
        else:
            self.fail("it does not come to rest")
        self.assertEqual(len(world.finals), len(lines), (lines, world.finals))
        for line, final in zip(lines, world.finals, strict=True):
            if line.startswith(("SITE", "REST", "XLST")):
                self.assertEqual(bytes(final), f"200 {line}\r\n".encode())
            elif line.startswith(("RETR", "STOR")) and final.code in (226, 550):
                self.assertIn(line.encode(), bytes(final))
            elif line == "PBSZ 0":
                self.assertEqual(final.code, 503)
            elif line == "PORT 1":
                self.assertEqual(final.code, 501)
        self.assertTrue(world.session.takes_commands)
        for seen in world.seen:
            self.assertNotEqual(seen.direction, Direction.UNKNOWN)

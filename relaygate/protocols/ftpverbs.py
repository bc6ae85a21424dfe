"""
What becomes of each of a client's commands.

Those in the table are the gateway's, or have a meaning to it; all others are the backend's
(RFC 5797 counts the many that there are).  Commands that carry an address, in any dialect, never
reach it: an address of the client's would mean something else to the backend.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from relaygate.protocols.ftp import Command, Reply
from relaygate.protocols.ftpaddr import (
    Forbidden,
    FTPAddressError,
    is_ipv4,
    parse_eprt,
    parse_epsv,
    parse_port,
)
from relaygate.protocols.ftpeffects import BounceRefused, Direction, TLSMode
from relaygate.protocols.ftpexchange import (
    Abortion,
    Core,
    Exchange,
    Farewell,
    Features,
    Login,
    Passing,
    Reinitialisation,
    Securing,
)
from relaygate.protocols.ftplate import Late
from relaygate.protocols.ftpprepare import Preparation
from relaygate.protocols.ftptransfer import Transferring

HTTP: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PRI", "PUT", "TRACE"}
)
"""Verbs of an HTTP client that was led here.

What it sends behind one may be someone else's words (CVE-2021-31971), so not one more line of it
is to be read.
"""

_BEFORE_LOGIN: Final = frozenset(
    {"ACCT", "AUTH", "CCC", "CLNT", "FEAT", "HELP", "HOST", "NOOP", "OPTS", "PASS", "PBSZ", "PROT"}
    | {"QUIT", "REIN", "SYST", "USER"}
)
_BEFORE_TLS: Final = _BEFORE_LOGIN - {"ACCT", "PASS", "REIN", "USER"}
_DIRECTIONS: Final = {
    "APPE": Direction.UPLOAD,
    "LIST": Direction.DOWNLOAD,
    "MLSD": Direction.DOWNLOAD,
    "NLST": Direction.DOWNLOAD,
    "RETR": Direction.DOWNLOAD,
    "STOR": Direction.UPLOAD,
    "STOU": Direction.UPLOAD,
}
_LOG_IN: Final = Reply.of(530, "Log in with USER and PASS first.")
_NOT_HERE: Final = Reply.of(502, "Command not implemented.")


def exchange_for(core: Core, command: Command) -> Exchange | Reply:
    """Return the exchange that *command* begins, or the answer that is all it leads to."""
    verb = command.verb
    if verb not in _VERBS and verb.rstrip("0123456789") in _VERBS:
        # A server that ends verbs at the first digit would take it for ours.
        return Reply.of(500, "Command not understood.")
    if core.protection.missing and verb not in _BEFORE_TLS:
        return Reply.of(530, "TLS is required here, send AUTH TLS first.")
    if core.must_log_in_again and verb not in _BEFORE_LOGIN:
        return _LOG_IN
    return _VERBS.get(verb, _pass)(core, command)


def _pass(core: Core, command: Command) -> Exchange | Reply:
    offer = core.offer
    if offer is not None and offer.failed is None:
        return Transferring(core, command, offer, Direction.UNKNOWN)
    return Passing(core, command)


def _refuse(_core: Core, _command: Command) -> Exchange | Reply:
    return _NOT_HERE


def _host(core: Core, command: Command) -> Exchange | Reply:
    """HOST, which names the server before the user is named (RFC 7151, section 3)."""
    if core.policy.hides_host:
        return _NOT_HERE
    named = command.words.decode("latin-1").strip("[]").rstrip(".").lower()
    if core.user is not None:
        return Reply.of(503, "HOST comes before USER.")
    if core.server_name is not None and named != core.server_name.rstrip(".").lower():
        return Reply.of(504, "TLS was made for another host.")
    return _pass(core, command)


def _features(core: Core, command: Command) -> Exchange | Reply:
    return _pass(core, command) if command.words else Features(core, command)


def _protection(core: Core, command: Command) -> Exchange | Reply:
    private = core.protection.private
    reply = core.protection.answer(command)
    if core.protection.private != private:
        core.drop_offer()
    return Securing(core, reply) if reply.code == 234 else reply


def _reinitialise(core: Core, command: Command) -> Exchange | Reply:
    """REIN would end the protection of both sides (RFC 4217, section 11): not under TLS."""
    if core.protection.secured or core.policy.backend is not TLSMode.OFF:
        return _NOT_HERE
    return Reinitialisation(core, command)


def _mode(core: Core, command: Command) -> Exchange | Reply:
    """Block and compressed mode end a file without ending its connection: not here."""
    if command.words.upper() in (b"B", b"C"):
        return Reply.of(504, "Unimplemented mode, only stream is supported.")
    return _pass(core, command)


def _passive(core: Core, command: Command) -> Exchange | Reply:
    if not core.logged_in:
        return _LOG_IN
    if command.verb == "EPSV":
        try:
            core.only_epsv |= (everything := parse_epsv(command.words, core.client))
        except FTPAddressError as error:
            return Reply.of(error.code, str(error))
        if everything:
            return Reply.of(200, "Only EPSV from now on.")
    elif core.only_epsv:
        return Reply.of(503, "Not allowed after EPSV ALL.")
    elif command.words:
        return Reply.of(501, "Syntax error: command does not accept arguments.")
    elif not is_ipv4(core.client):
        return Reply.of(522, "Network protocol not supported, use EPSV.")
    return Preparation(core, command.verb, None)


def _active(core: Core, command: Command) -> Exchange | Reply:
    if not core.logged_in:
        return _LOG_IN
    if core.only_epsv:
        return Reply.of(503, "Not allowed after EPSV ALL.")
    if not command.words:
        return Reply.of(501, "Syntax error: command needs an argument.")
    parse = parse_port if command.verb == "PORT" else parse_eprt
    try:
        port = parse(command.words, core.client)
    except FTPAddressError as error:
        if isinstance(error, Forbidden):
            core.emit(BounceRefused(command, str(error)))
        return Reply.of(error.code, str(error))
    return Preparation(core, command.verb, port)


def _transfer(core: Core, command: Command) -> Exchange | Reply:
    """A transfer; who is not logged in hears about it from the backend."""
    if not core.logged_in:
        return Passing(core, command)
    if core.protection.refusal is not None:
        return core.protection.refusal
    if core.offer is None:
        if not core.unprepared:
            return Reply.of(425, "Use PORT or PASV first.")
        return Late(core, command, _DIRECTIONS[command.verb])
    return Transferring(core, command, core.offer, _DIRECTIONS[command.verb])


_VERBS: Final[dict[str, Callable[[Core, Command], Exchange | Reply]]] = {
    **dict.fromkeys(("USER", "PASS", "ACCT"), Login),
    **dict.fromkeys(("AUTH", "PBSZ", "PROT", "CCC"), _protection),
    **dict.fromkeys(("PASV", "EPSV"), _passive),
    **dict.fromkeys(("PORT", "EPRT"), _active),
    **dict.fromkeys(_DIRECTIONS, _transfer),
    "ABOR": Abortion,
    "FEAT": _features,
    "HOST": _host,
    "MODE": _mode,
    "QUIT": Farewell,
    "REIN": _reinitialise,
    # Addresses in other dialects, and commands in others' armour (RFC 1545, 1639, 2228).
    **dict.fromkeys(("LPRT", "LPSV", "SPSV", "CPSV", "SSCN"), _refuse),
    **dict.fromkeys(("ADAT", "MIC", "CONF", "ENC"), _refuse),
}

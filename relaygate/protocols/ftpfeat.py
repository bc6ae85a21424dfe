"""
The features that a client is told of (RFC 2389, section 3).

The backend's list is passed on, but the gateway does some of it itself, its own way: what protects
a session, and what names an address.  Those lines are taken out, and the gateway's put in.
"""

from __future__ import annotations

from relaygate.protocols.ftp import Reply

_OURS = frozenset({b"AUTH", b"PBSZ", b"PROT", b"CCC", b"EPRT", b"EPSV"})
_NEVER = frozenset({b"LPRT", b"LPSV", b"SPSV", b"CPSV", b"SSCN"})
_PROTECTION = (b" AUTH TLS", b" AUTH SSL", b" PBSZ", b" PROT")
_ADDRESSES = (b" EPRT", b" EPSV")


def adapt_features(reply: Reply, *, tls: bool) -> Reply:
    """
    Turn the backend's answer to FEAT into the gateway's.

    A backend that has no such list, or does not give it yet, gets replaced: a client may ask
    before it logs in (RFC 4217, section 6, shows one that must).  A busy one (4yz) is passed on.

    :param tls: whether AUTH is offered to clients.
    """
    own = (*_ADDRESSES, *(_PROTECTION if tls else ()))
    if 400 <= reply.code < 500:
        return reply
    lines = reply.lines if reply.code == 211 and len(reply.lines) > 1 else ()
    kept = tuple(line for line in lines[1:-1] if _name(line) not in _OURS | _NEVER)
    first = lines[0] if lines else b"211-Features:"
    last = lines[-1] if lines else b"211 End"
    return Reply(211, (first, *kept, *own, last))


def _name(line: bytes) -> bytes:
    # Some servers repeat the code, as was done before RFC 2389 asked for a space.
    words = line.removeprefix(b"211-").replace(b";", b" ").split(maxsplit=1)
    return words[0].upper() if words else b""

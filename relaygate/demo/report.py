"""What the demo prints about its transfers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from relaygate.demo import openssh
from relaygate.demo.gateway import DMZ, HOST, NODES, OUT_FTP, OUT_WEB, Gateway
from relaygate.demo.keys import FTP_NAME, SERVERS_CA, USER, WEB_NAME, read_password
from relaygate.demo.transfers import Mover, Row

_HEAD: Final = ("protocol", "client", "direction", "size", "time", "rate", "node", "sha-256")
_RIGHT: Final = frozenset(("size", "time", "rate"))
_UNITS: Final = (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))


def way(gateway: Gateway, mover: Mover, row: Row) -> str:
    """One line: which way a file went, and how it ended."""
    at = f"{HOST}:{gateway.ports[mover.service]}"
    back = f"{HOST}:{gateway.backends[mover.service]}"
    places = [row.client, f"{at} (dmz)", row.node, back]
    if mover.service in (OUT_WEB, OUT_FTP):
        places = [row.client, f"{at} ({row.node})", DMZ, f"{back} (partner)"]
    if row.direction == "download":
        places.reverse()
    end = f"session {row.session}, equal" if row.good else f"FAILED: {row.trouble}"
    return f"  {row.protocol} {amount(row.size)}: {' -> '.join(places)}; {end}"


def table(rows: Sequence[Row]) -> str:
    """All rows under one head."""
    cells = [_HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for line in cells:
        aligned = (
            cell.rjust(width) if head in _RIGHT else cell.ljust(width)
            for head, cell, width in zip(_HEAD, line, widths, strict=True)
        )
        lines.append("  ".join(aligned).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _cells(row: Row) -> tuple[str, ...]:
    took, rate, checksum = "-", "-", "FAILED"
    if row.node != "-":
        took = f"{row.seconds:.2f} s"
        rate = f"{amount(int(row.size / row.seconds))}/s"
        checksum = "equal" if row.equal else "NOT EQUAL"
    return (
        row.protocol,
        row.client,
        row.direction,
        amount(row.size),
        took,
        rate,
        row.node,
        checksum,
    )


def amount(size: int) -> str:
    """A number of bytes, in the unit that people would take."""
    for unit, factor in _UNITS:
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} B"


def verdict(rows: Sequence[Row]) -> str | None:
    """Why the demo as a whole has failed; None if it has not."""
    failed = sum(not row.good for row in rows)
    if failed:
        return f"{failed} of {len(rows)} files did not get through whole"
    idle = sorted(set(NODES) - {row.node for row in rows})
    if idle:
        return f"no session went to {', '.join(idle)}"
    return None


def hints(gateway: Gateway) -> str:
    """How to use the gateway by hand while it runs."""
    ports, folder = gateway.ports, gateway.clients_folder
    lines = ["The gateway runs until Ctrl-C. Try it from another terminal:"]
    if openssh.is_here():
        config = openssh.write_config(folder, ports["sftp"])
        lines += [
            f"  sftp -F {config} {openssh.ALIAS}",
            f"  (the key is {folder / 'user_key'}; the server gives files and no shell)",
        ]
        if openssh.scp_speaks_sftp():
            lines.append(f"  scp -s -F {config} SOME-FILE {openssh.ALIAS}:")
    curl = f"curl --cacert {folder / SERVERS_CA}"
    user = f"-u {USER}:{read_password(folder)}"
    name, port = FTP_NAME, ports["ftp"]
    lines += [
        f"  curl {user} -T SOME-FILE ftp://{HOST}:{port}/",
        f"  {curl} --resolve {name}:{port}:{HOST} --ssl-reqd {user} -T SOME-FILE ftp://{name}:{port}/",
    ]
    port = ports["ftps"]
    lines.append(f"  {curl} --resolve {name}:{port}:{HOST} {user} ftps://{name}:{port}/")
    name, port = WEB_NAME, ports["web-tls"]
    lines += [
        f"  curl -T SOME-FILE http://{HOST}:{ports['web']}/NAME",
        f"  {curl} --resolve {name}:{port}:{HOST} https://{name}:{port}/NAME",
        f"  curl --socks5 {HOST}:{ports[OUT_WEB]} http://{HOST}:{gateway.backends[OUT_WEB]}/NAME",
        f"  curl {user} ftp://{HOST}:{ports[OUT_FTP]}/",
        "and watch what the nodes say:",
        "  tail -f " + " ".join(str(child.log_file) for child in gateway.children[:-2]),
    ]
    return "\n".join(lines)

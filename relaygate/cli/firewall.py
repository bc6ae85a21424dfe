"""Who dials whom: nftables' rules for each machine, and plain words for who runs the firewalls."""

from __future__ import annotations

from collections.abc import Iterable

from relaygate.addresses import HostPort
from relaygate.cli.deployment import Deployment, Entry, Gateway

__all__ = ["dmz_rules", "firewall_words", "internal_rules"]

# What opens something.  Of TCP it is told by the flags: connection tracking that begins with these
# rules takes the next packet of a connection that stands for a new one, and would cut it.
_NEW = ("tcp flags & (fin | syn | rst | ack) == syn", "meta l4proto != tcp ct state new")
_CHANNEL = "uplinks and data channels (TLS 1.3, and data channels that begin with RLGC)"


def _ports(plan: Deployment) -> list[str]:
    ports = sorted({HostPort.parse(each.listen).port for each in plan.services})
    spans = [str(port) for port in ports]
    if any(each.ftp for each in plan.services):
        spans.append(plan.passive_ports)
    return spans


def _partners(plan: Deployment) -> str:
    """The rules for what partners reach."""
    ports = _ports(plan)
    if not ports:
        return "        # Partners reach nothing here: there is no service, only a way out."
    data = " and FTP's data connections" if "-" in ports[-1] else ""
    return f"""\
        # Partners: the services' listeners{data}.
        tcp dport {{ {", ".join(ports)} }} accept"""


def _by_family(addresses: Iterable[str]) -> dict[str, list[str]]:
    """The literals *addresses* by the word that nftables has for their family."""
    found: dict[str, list[str]] = {}
    for address in addresses:
        found.setdefault("ip6" if ":" in address else "ip", []).append(address)
    return found


def _nothing_new(addresses: dict[str, list[str]], side: str, verdict: str) -> list[str]:
    """Rules that give *verdict* to whatever opens something, with *side* among *addresses*."""
    return [
        f"        {family} {side} {{ {', '.join(found)} }} {new} {verdict}"
        for family, found in addresses.items()
        for new in _NEW
    ]


def dmz_rules(plan: Deployment, gateway: Gateway) -> str:
    """The file for nftables of a DMZ node's machine."""
    port = HostPort.parse(gateway.address).port
    sources = _by_family(node.address for node in plan.nodes if node.address)
    known = all(node.address for node in plan.nodes)
    rules = [
        f"        tcp dport {port} {family} saddr {{ {', '.join(found)} }} accept"
        for family, found in sources.items()
    ]
    if known:
        rules.append(f"        tcp dport {port} drop")
    else:
        rules.append(
            "        # The internal nodes' addresses are not known: name them, "
            "--node NAME=ADDRESS, and make this anew.\n"
            f"        tcp dport {port} accept"
        )
    back = _nothing_new(sources, "daddr", "reject")
    return f"""\
#!/usr/sbin/nft -f
# DMZ node {gateway.name}: rules in a table of their own, which leaves all other rules as they are.
# Loading it twice changes nothing. A firewall that drops by default needs its own accept rules.
table inet relaygate
delete table inet relaygate
table inet relaygate {{
    chain input {{
        type filter hook input priority filter; policy accept;
        # Uplinks and data channels: internal nodes alone.
{chr(10).join(rules)}
{_partners(plan)}
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        # Nothing is opened from here towards the inside.
{chr(10).join(back) or "        # (the internal nodes' addresses are not known)"}
    }}
}}
"""


def internal_rules(plan: Deployment) -> str:
    """The file for nftables of an internal node's machine."""
    ports = sorted({str(HostPort.parse(gateway.address).port) for gateway in plan.gateways})
    literals = [HostPort.parse(gateway.address).literal for gateway in plan.gateways]
    addresses = _by_family(str(each) for each in literals if each is not None)
    refused = _nothing_new(addresses, "saddr", "drop")
    open_entries = [each for each in plan.entries if each.open_to_others]
    needs = "no port open"
    if open_entries:
        listens = ", ".join(each.listen for each in open_entries)
        needs = f"no port open but {listens}, for programs inside"
    return f"""\
#!/usr/sbin/nft -f
# An internal node: it dials out, to tcp port {" ".join(ports)} of the DMZ nodes, and to backends.
# It needs {needs}. These rules hold the DMZ to that.
table inet relaygate
delete table inet relaygate
table inet relaygate {{
    chain input {{
        type filter hook input priority filter; policy accept;
        # Nothing comes from the DMZ but answers.
{chr(10).join(refused) or "        # (the DMZ nodes' addresses are names: put them here)"}
    }}
}}
"""


def firewall_words(plan: Deployment) -> str:
    """Who dials whom, for those who run the firewalls."""
    nodes = ", ".join(
        f"{node.name} ({node.address})" if node.address else node.name for node in plan.nodes
    )
    lines = [
        "Who dials whom. All of it is TCP, and that is all: everything else may be dropped,",
        "above all whatever the DMZ would open towards the private network.",
        "",
    ]
    for gateway in plan.gateways:
        lines += [
            f"from  internal nodes: {nodes}",
            f"to    DMZ node {gateway.name}: {gateway.address}",
            f"for   {_CHANNEL}",
            "",
        ]
    for service in plan.services:
        port = HostPort.parse(service.listen).port
        lines += [
            "from  partners, the Internet",
            f"to    the DMZ: port {port}",
            f"for   service {service.name} ({service.protocol})",
            "",
        ]
        if service.ftp:
            lines += [
                "from  partners, the Internet",
                f"to    the DMZ: ports {plan.passive_ports}",
                f"for   data connections of {service.name}, passive mode",
                "",
                "from  the DMZ",
                "to    partners: port 1024 and up (may stay closed: then there is no active mode)",
                f"for   data connections of {service.name}, active mode",
                "",
            ]
        lines += [
            f"from  internal nodes: {nodes}",
            f"to    {', '.join(service.backends)}",
            f"for   service {service.name}",
            "",
        ]
    for entry in plan.entries:
        lines += _entry_words(plan, entry, nodes)
    lines += ["from  the DMZ", "to    the private network: nothing, ever", ""]
    return "\n".join(lines)


def _entry_words(plan: Deployment, entry: Entry, nodes: str) -> list[str]:
    port = HostPort.parse(entry.listen).port
    to = ", ".join(entry.destinations)
    lines = ["from  the DMZ", f"to    {to}"]
    if entry.protocol == "ftp":
        lines[1] += ", and port 1024 and up there (data connections, passive mode)"
    lines += [f"for   entry {entry.name} ({entry.protocol}): programs inside on their way out", ""]
    if entry.open_to_others:
        lines += [
            f"from  programs inside: {', '.join(plan.entry_allow)}",
            f"to    internal nodes: {nodes}, port {port}",
            f"for   entry {entry.name} ({entry.protocol})",
            "",
        ]
    return lines

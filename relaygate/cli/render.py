"""The files that ``relaygate init`` writes for each machine, as texts."""

from __future__ import annotations

import json

from relaygate.addresses import HostPort
from relaygate.cli.deployment import Deployment, Gateway, Inside, Published
from relaygate.cli.units import CONFIG_FOLDER, unit, unit_name
from relaygate.identity import Role

__all__ = ["dmz_folder", "firewall_words", "internal_folder"]

_CHANNEL = "uplinks and data channels (TLS 1.3, and data channels that begin with RLGC)"


def dmz_folder(plan: Deployment, gateway: Gateway) -> dict[str, str]:
    """The files of a DMZ node's folder, by name, beside its certificate and key."""
    return {
        "dmz.toml": _dmz_toml(plan, gateway),
        unit_name(Role.DMZ): unit(Role.DMZ, prefix=plan.prefix),
        "firewall.nft": _dmz_nft(plan, gateway),
        "FIREWALL.txt": firewall_words(plan),
        "install.sh": _install(plan, Role.DMZ, gateway.name, "dmz.toml", ()),
    }


def internal_folder(plan: Deployment, node: Inside) -> dict[str, str]:
    """The files of an internal node's folder, likewise."""
    return {
        "internal.toml": _internal_toml(plan, node),
        unit_name(Role.INTERNAL): unit(Role.INTERNAL, prefix=plan.prefix),
        "firewall.nft": _internal_nft(plan),
        "FIREWALL.txt": firewall_words(plan),
        "install.sh": _install(
            plan, Role.INTERNAL, node.name, "internal.toml", tuple(_certified(plan))
        ),
    }


def _certified(plan: Deployment) -> list[str]:
    return [f"service-{each.name}" for each in plan.services if each.opened]


def _identity(name: str) -> str:
    return f"""\
# Who this node is: PEM files beside this one. The key is for its owner alone (mode 0600).
[identity]
certificate = "{name}.pem"
key = "{name}.key"
ca = "ca.pem"
"""


def _dmz_toml(plan: Deployment, gateway: Gateway) -> str:
    rules = [each.listen for each in plan.services]
    if any(each.opened for each in plan.services):
        for host in dict.fromkeys(
            HostPort.parse(each.listen).host for each in plan.services if each.opened
        ):
            shown = f"[{host}]" if ":" in host else host
            rules.append(f"{shown}:{plan.passive_ports}")
    nodes = [each.name for each in plan.nodes]
    return f"""\
# DMZ node {gateway.name}, made by "relaygate init". No service and no backend is named here.
# All keys: docs/configuration.md. After a change: relaygate check dmz.toml

{_identity(gateway.name)}
# The one port that internal nodes dial, and the names in their certificates.
[uplink]
listen = {_toml(gateway.listen)}
nodes = {_toml(nodes)}

# What internal nodes may have opened here: the services' listeners{
        ", and the ports of FTP's data connections" if len(rules) > len(plan.services) else ""
    }.
[policy]
listen = {_toml(list(dict.fromkeys(rules)))}

# To standard output, which systemd takes into its journal.
[log]
format = "text"
"""


def _internal_toml(plan: Deployment, node: Inside) -> str:
    parts = [
        f"""\
# Internal node {node.name}, made by "relaygate init".
# All keys: docs/configuration.md. After a change: relaygate check internal.toml

{_identity(node.name)}
# What "relaygate status" and its like talk to.
[admin]
socket = "/run/relaygate/internal.sock"

# To standard output, which systemd takes into its journal.
[log]
format = "text"
"""
    ]
    parts.extend(
        f"""\
# A DMZ node to dial; its certificate must carry this name.
[[gateway]]
address = {_toml(gateway.address)}
name = {_toml(gateway.name)}
"""
        for gateway in plan.gateways
    )
    parts.extend(_service_toml(plan, service) for service in plan.services)
    return "\n".join(parts)


def _service_toml(plan: Deployment, service: Published) -> str:
    text = f"""\
# Opened on the DMZ node ("listen"), led to the servers in the private network ("backends").
[[service]]
name = {_toml(service.name)}
protocol = {_toml(service.protocol)}
listen = {_toml(service.listen)}
backends = {_toml(list(service.backends))}
"""
    if not service.opened:
        return text
    public = (
        f"""\
# What the answer to PASV says: the DMZ's address as partners see it.
public_address = {_toml(plan.public_address)}
"""
        if plan.public_address
        else """\
# Partners are told the address that they reached. Where the DMZ's address is translated, say which
# one they see: public_address = "203.0.113.7"
"""
    )
    return f"""\
{text}
# The certificate that partners are shown. The one that lies here was made by "relaygate init" for a
# first try and signed by itself: put one of an authority that your partners trust in its place.
[service.tls]
certificate = "service-{service.name}.pem"
key = "service-{service.name}.key"

[service.ftp]
# Where the ports of data connections are drawn from.
passive_ports = {_toml(plan.passive_ports)}
{public}"""


def _ports(plan: Deployment) -> list[str]:
    ports = sorted({HostPort.parse(each.listen).port for each in plan.services})
    spans = [str(port) for port in ports]
    if any(each.opened for each in plan.services):
        spans.append(plan.passive_ports)
    return spans


def _sources(plan: Deployment) -> dict[str, list[str]]:
    """The internal nodes' addresses, by the word that nftables has for their family."""
    found: dict[str, list[str]] = {}
    for node in plan.nodes:
        if node.address:
            found.setdefault("ip6" if ":" in node.address else "ip", []).append(node.address)
    return found


def _dmz_nft(plan: Deployment, gateway: Gateway) -> str:
    port = HostPort.parse(gateway.address).port
    sources = _sources(plan)
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
    back = [
        f"        {family} daddr {{ {', '.join(found)} }} ct state new reject"
        for family, found in sources.items()
    ]
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
        # Partners: the services' listeners{
        " and FTP's data connections" if "-" in _ports(plan)[-1] else ""
    }.
        tcp dport {{ {", ".join(_ports(plan))} }} accept
    }}
    chain output {{
        type filter hook output priority filter; policy accept;
        # Nothing is opened from here towards the inside.
{chr(10).join(back) or "        # (the internal nodes' addresses are not known)"}
    }}
}}
"""


def _internal_nft(plan: Deployment) -> str:
    ports = sorted({str(HostPort.parse(gateway.address).port) for gateway in plan.gateways})
    addresses: dict[str, list[str]] = {}
    for gateway in plan.gateways:
        literal = HostPort.parse(gateway.address).literal
        if literal is not None:
            addresses.setdefault("ip6" if literal.version == 6 else "ip", []).append(str(literal))
    refused = [
        f"        {family} saddr {{ {', '.join(found)} }} ct state new drop"
        for family, found in addresses.items()
    ]
    return f"""\
#!/usr/sbin/nft -f
# An internal node: it only dials out, to tcp port {" ".join(ports)} of the DMZ nodes and to its
# backends, so it needs no port open. These rules hold the DMZ to that.
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
        if service.opened:
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
    lines += ["from  the DMZ", "to    the private network: nothing, ever", ""]
    return "\n".join(lines)


def _install(
    plan: Deployment, role: Role, name: str, config: str, certified: tuple[str, ...]
) -> str:
    service = unit_name(role)
    trial = "".join(
        f"[ -e {CONFIG_FOLDER}/{each}.pem ] || put 0640 {each}.pem\n"
        f"[ -e {CONFIG_FOLDER}/{each}.key ] || put 0600 {each}.key\n"
        for each in certified
    )
    if trial:
        trial = "# Certificates for a first try; what is there already is yours.\n" + trial
    return f"""\
#!/bin/sh
# Puts this folder's files where {service} looks for them, and starts it. Run it as root, again
# whenever the folder has changed. relaygate is in {plan.prefix} already, or in "wheels" here.
set -eu
cd "$(dirname "$0")"
if [ -d wheels ]; then
    [ -x {plan.prefix}/bin/pip ] || python3 -m venv {plan.prefix}
    {plan.prefix}/bin/pip install --quiet --no-index --find-links wheels relaygate
fi
[ -x {plan.prefix}/bin/twistd ] || {{ echo "relaygate is not in {plan.prefix} yet" >&2; exit 1; }}
getent passwd relaygate >/dev/null \\
    || useradd --system --no-create-home --shell /usr/sbin/nologin relaygate
put() {{ install -m "$1" -o relaygate -g relaygate "$2" "{CONFIG_FOLDER}/${{3:-$2}}"; }}
install -d -m 0750 -o relaygate -g relaygate {CONFIG_FOLDER}
put 0640 ca.pem
put 0640 {name}.pem
put 0600 {name}.key
{trial}# A configuration that was changed on this machine stays, and the new one lies beside it.
cd {CONFIG_FOLDER}
if [ -e {config} ] && ! cmp -s {config} .{config}.installed; then
    cd - >/dev/null
    put 0640 {config} {config}.new
    echo "{CONFIG_FOLDER}/{config} was changed here and stays; see {config}.new" >&2
else
    cd - >/dev/null
    put 0640 {config}
    put 0640 {config} .{config}.installed
fi
# Twisted keeps a list of its plugins beside them, which the service may not write.
{plan.prefix}/bin/twistd --help >/dev/null
# As the service will read it.
{plan.prefix}/bin/relaygate check {CONFIG_FOLDER}/{config}
install -m 0644 {service} /etc/systemd/system
systemctl daemon-reload
systemctl enable {service}
systemctl reload-or-restart {service}
systemctl --no-pager --lines=5 status {service}
echo "The firewall: read FIREWALL.txt; nft -f firewall.nft loads this machine's part."
"""


def _toml(value: str | list[str]) -> str:
    """A TOML string or list of strings; JSON's are TOML's too."""
    return json.dumps(value, ensure_ascii=False)

"""The files that ``relaygate init`` writes for each machine, as texts."""

from __future__ import annotations

import json

from relaygate.addresses import HostPort
from relaygate.cli.deployment import Deployment, Entry, Gateway, Inside, Published
from relaygate.cli.firewall import dmz_rules, firewall_words, internal_rules
from relaygate.cli.units import CONFIG_FOLDER, unit, unit_name
from relaygate.identity import Role

__all__ = ["dmz_folder", "internal_folder"]

_PRIVILEGED = 1024


def dmz_folder(plan: Deployment, gateway: Gateway) -> dict[str, str]:
    """The files of a DMZ node's folder, by name, beside its certificate and key."""
    return {
        "dmz.toml": _dmz_toml(plan, gateway),
        unit_name(Role.DMZ): unit(Role.DMZ, prefix=plan.prefix),
        "firewall.nft": dmz_rules(plan, gateway),
        "FIREWALL.txt": firewall_words(plan),
        "install.sh": _install(plan, Role.DMZ, gateway.name, "dmz.toml", ()),
    }


def internal_folder(plan: Deployment, node: Inside) -> dict[str, str]:
    """The files of an internal node's folder, likewise."""
    low = any(HostPort.parse(each.listen).port < _PRIVILEGED for each in plan.entries)
    return {
        "internal.toml": _internal_toml(plan, node),
        unit_name(Role.INTERNAL): unit(Role.INTERNAL, prefix=plan.prefix, low_ports=low),
        "firewall.nft": internal_rules(plan),
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
    if any(each.ftp for each in plan.services):
        for host in dict.fromkeys(
            HostPort.parse(each.listen).host for each in plan.services if each.ftp
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

# What internal nodes may have opened here{
        ": the services' listeners" if rules else ": nothing, without a service"
    }{", and the ports of FTP's data connections" if len(rules) > len(plan.services) else ""}.
[policy]
{f"listen = {_toml(list(dict.fromkeys(rules)))}" if rules else '#listen = ["0.0.0.0:2222"]'}
{_connect(plan)}
# To standard output, which systemd takes into its journal.
[log]
format = "text"
"""


def _connect(plan: Deployment) -> str:
    """The line of the policy about the way out, where there is one."""
    places = list(dict.fromkeys(place for each in plan.entries for place in each.destinations))
    if not places:
        return ""
    return f"""\
# Where connections of programs inside may go, which internal nodes ask for.
connect = {_toml(places)}
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
    parts.extend(_entry_toml(plan, entry) for entry in plan.entries)
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
    text = f"""\
{text}
# The certificate that partners are shown. The one that lies here was made by "relaygate init" for a
# first try and signed by itself: put one of an authority that your partners trust in its place.
[service.tls]
certificate = "service-{service.name}.pem"
key = "service-{service.name}.key"
"""
    if not service.ftp:
        return f"""\
{text}
# Backends are asked in plain HTTP. Those that want TLS:
#[service.backend_tls]
#mode = "on"
#ca = "the-ca-of-the-backends.pem"
"""
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
[service.ftp]
# Where the ports of data connections are drawn from.
passive_ports = {_toml(plan.passive_ports)}
{public}"""


def _entry_toml(plan: Deployment, entry: Entry) -> str:
    leads = f"target = {_toml(entry.destinations[0])}"
    if not entry.fixed:
        leads = f"destinations = {_toml(list(entry.destinations))}"
    text = f"""\
# The way out: programs inside connect to "listen" of this node, and the DMZ node dials for them.
# Its policy.connect has to permit the same.
[[forward]]
name = {_toml(entry.name)}
protocol = {_toml(entry.protocol)}
listen = {_toml(entry.listen)}
{leads}
"""
    if entry.open_to_others:
        text += f"""\
# Whose programs may use it.
allow = {_toml(list(plan.entry_allow))}
"""
    if entry.protocol == "ftp":
        text += """
# The partner is spoken to in plain FTP. For FTPS:
#[forward.partner_tls]
#mode = "explicit"
#ca = "/etc/ssl/certs/ca-certificates.crt"
"""
    return text


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

"""The systemd unit of each program: one text, for ``etc/`` and for ``relaygate init``.

What a unit takes away was tried with the programs themselves: ``relaygate/test/test_units.py`` runs
both under the restrictions that can be had without systemd, and has systemd judge the files.
"""

from __future__ import annotations

from relaygate.identity import Role

__all__ = ["CONFIG_FOLDER", "PREFIX", "unit", "unit_name"]

PREFIX = "/opt/relaygate"
CONFIG_FOLDER = "/etc/relaygate"

_FILES = {Role.DMZ: "dmz.toml", Role.INTERNAL: "internal.toml"}

# Port 22 in the DMZ needs the capability.  The inside opens no port but those of its entries.
_CAPABILITIES = {
    Role.DMZ: """\
# Ports below 1024, and nothing else that root can do.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
""",
    Role.INTERNAL: """\
# Nothing that root can do. For entries on ports below 1024 both have to be CAP_NET_BIND_SERVICE,
# and PrivateUsers=no.
AmbientCapabilities=
CapabilityBoundingSet=
PrivateUsers=yes
""",
}

_TITLES = {Role.DMZ: "relaygate DMZ node", Role.INTERNAL: "relaygate internal node"}

_UNIT = """\
# {file}: {what}
#
# Put it into /etc/systemd/system, then: systemctl daemon-reload; systemctl enable --now {file}
# Own changes belong into a drop-in: systemctl edit {file}
[Unit]
Description={what}
Documentation=man:{program}(8)
Wants=network-online.target
After=network-online.target

[Service]
# The program tells by sd_notify(3) when it is ready, and twice a minute that it is alive.
Type=notify
NotifyAccess=main
WatchdogSec=60
User=relaygate
Group=relaygate
ExecStart={prefix}/bin/twistd --nodaemon --pidfile= {program} --config {config}
# Read the files again. A file with a mistake changes nothing and is told in the log.
ExecReload=/bin/kill -HUP $MAINPID
# SIGTERM drains: what runs has [stop] drain seconds to end, 30 if the file says nothing, and the
# program a few more. This has to be longer by 15; change both together.
TimeoutStopSec=45
Restart=on-failure
RestartSec=2
# Status 2 is a wrong file: starting again would not mend it.
RestartPreventExitStatus=2
# Two for each session, two more while a reader is slow.
LimitNOFILE=65536
LimitCORE=0
UMask=0077

# Folders of its own: /etc, /run, /var/lib and /var/log, each with /relaygate.
ConfigurationDirectory=relaygate
RuntimeDirectory=relaygate
StateDirectory=relaygate
LogsDirectory=relaygate
ConfigurationDirectoryMode=0750
RuntimeDirectoryMode=0750
StateDirectoryMode=0750
LogsDirectoryMode=0750

{capabilities}NoNewPrivileges=yes

# The machine is read-only, and most of it out of sight.
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateMounts=yes
DevicePolicy=closed
ProtectProc=invisible
ProcSubset=pid
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
RemoveIPC=yes
KeyringMode=private

# IP, and unix sockets for systemd and the admin socket.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
# Not MemoryDenyWriteExecute=: pyOpenSSL makes its callbacks (cffi) in memory of that kind.
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit_name(role: Role) -> str:
    """The name of the unit's file."""
    return f"relaygate-{role.value}.service"


def unit(
    role: Role, prefix: str = PREFIX, folder: str = CONFIG_FOLDER, *, low_ports: bool = False
) -> str:
    """
    The unit of a node of *role*, installed in *prefix* and configured in *folder*.

    With *low_ports* an internal node may open ports below 1024, as a DMZ node may.
    """
    return _UNIT.format(
        file=unit_name(role),
        what=_TITLES[role],
        program=unit_name(role).removesuffix(".service"),
        prefix=prefix,
        config=f"{folder}/{_FILES[role]}",
        capabilities=_CAPABILITIES[Role.DMZ if low_ports else role],
    )

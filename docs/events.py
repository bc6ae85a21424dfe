"""What each line of the log means and what to do, by its format in the source.

``generate.py`` makes ``troubleshooting.md`` out of it, and fails for a line that is not here.  An
empty cure says that nothing is to be done.
"""

from __future__ import annotations

FAULT = "A fault in relaygate; its traceback follows. That session or question is lost, no more."
REPORT = "Report it, with the traceback."
STRANGERS = "Nothing, if it is a scan of the Internet. If it is a partner: "

# What to do about a refusal, by its number.
CURES: dict[int, str] = {
    1: "`relaygate status` on the internal nodes: is an uplink up, and is the service offered (not drained, a"
    " backend up)? Else `relaygate doctor SERVICE`.",
    2: "The files of internal nodes that share the listener differ: make them the same, `relaygate reload` on each.",
    3: "`relaygate doctor SERVICE` says what each backend does; start those that are down.",
    4: "A backend takes too long: its load, its `MaxStartups`, or a firewall that drops. `relaygate doctor SERVICE`.",
    5: "`relaygate sessions` shows who holds so many. Else raise `max_sessions` or `max_sessions_per_address`, of"
    " the service or of the DMZ's `[policy]`.",
    6: "Nothing: another node takes new sessions. Start this one again.",
    7: "Nothing, now and then: the client gave its transfer up. If it is always so, a firewall is between clients"
    " and the data ports.",
    8: "If it shall be: into `destinations` of the entry, and into `policy.connect` of the DMZ; the log of the node"
    " that refused says which.",
    9: "Mend the name, or the resolver of the DMZ's machine: partners' names are looked up there alone.",
    10: "Is the partner's server up, at that port? A firewall that rejects looks the same.",
    11: "Let the firewall outside of the DMZ pass it; ask the partner whether the DMZ's address is let in.",
    12: "Give the DMZ's machine a route there; look at `policy.connect_from`.",
    13: "`relaygate status`: is a gateway up, and is it of this version or a newer one?",
    14: "A firewall is between the partner and the range of ports: `passive_ports`, `active_ports`, or `ports` of"
    " `[forward.bind]`. `relaygate doctor` looks at them.",
    15: "Mend the program's user or password; the right one is in the `password_file`, which a reload reads again.",
    16: "`relaygate bans` and `relaygate unban`; `allow` and `deny` of the service.",
}

EVENTS: dict[str, tuple[str, str]] = {
    # -- start and end
    "relaygate {version} DMZ node {node} waits for internal nodes on {listen}: {nodes}": (
        "The DMZ node runs; its listeners open when internal nodes come.",
        "",
    ),
    "relaygate {version} internal node {node} publishes {services}": (
        "The internal node runs, and dials its DMZ nodes.",
        "",
    ),
    "{reason}": (
        "A port of the file cannot be opened, and the program ends.",
        "`ss -ltnp` says who has it. Below 1024 it takes CAP_NET_BIND_SERVICE: use the unit in `etc/`.",
    ),
    "descriptors: {limit}, enough for about {sessions} sessions{remedy}": (
        "How many sessions fit; a warning if they are fewer than the file allows.",
        "Raise `LimitNOFILE=` of the unit.",
    ),
    "stopping": ("The program ends: no new sessions.", ""),
    "told to stop again: sessions that run end now": ("A second SIGTERM came.", ""),
    "draining": (FAULT, REPORT),
    "an event of {selectable} failed": (FAULT, REPORT),
    "looking at who comes": (FAULT, REPORT),
    "taking a connection": (FAULT, REPORT),
    "reloading": (FAULT, REPORT),
    "{selectable} failed": (FAULT, REPORT),
    "draining: {sessions} sessions run": ("No new sessions; those that run may finish.", ""),
    "log reopened": ("SIGUSR1 came, after a rotation.", ""),
    "the log stays where it was: {reason}": (
        "The new log file cannot be opened.",
        "Mend the folder's rights, and send SIGUSR1 again.",
    ),
    # -- files
    "configuration read again: {changes} changes": ("SIGHUP, or `relaygate reload`.", ""),
    "configuration: {change}": ("One thing that is different from now on.", ""),
    "configuration not changed: {reason}": (
        "The new file has a mistake; all goes on as before.",
        "`relaygate check FILE`, mend it, reload again.",
    ),
    "{what} read again: unchanged name={name}": ("Certificates and keys are the same.", ""),
    "{what} changed: name={name} not_after={not_after}": ("New ones are used from now on.", ""),
    "{what} not changed: name={name} reason={reason!r}": (
        "New certificates or keys do not fit; the old ones stay in use.",
        "Mend what the reason names; they are read again within a minute.",
    ),
    "the certificate of {name} (or its CA) ends in {days} days, at {not_after}: renew it": (
        "Soon the nodes will not accept each other, or partners the service.",
        "`relaygate pki renew`, or your authority's way for a service's.",
    ),
    # -- uplinks
    "uplink open: node={node} address={address} generation={generation} software={software!r}"
    " key_exchange={key_exchange}": (
        "An internal node has come. A warning if the key exchange is not post-quantum.",
        "For the warning: install the same version on both.",
    ),
    "uplink open: gateway={gateway} address={address} generation={generation}"
    " software={software!r} key_exchange={key_exchange}": ("The DMZ node has taken us.", ""),
    "uplink lost: node={node} generation={generation} reason={reason!r}": (
        "An internal node is gone; if it was the last one of a listener, that closes.",
        "Look at that node. Silence means its machine or the wire.",
    ),
    "uplink lost: gateway={gateway} reason={reason!r}": (
        "The DMZ node is gone; it is dialled again, 15 s apart at most.",
        "`relaygate doctor`.",
    ),
    "no uplink to {gateway} at {address}: {reason}": (
        "The DMZ node cannot be reached, or refuses us.",
        "`relaygate doctor` says at which hop.",
    ),
    "uplink refused: {reason}": (
        "The other node speaks another major version.",
        "Install the same major version on both.",
    ),
    "uplink refused: the node offers {offered!r}, this node speaks {spoken!r}": (
        "The same, seen at the TLS handshake.",
        "Install the same major version on both.",
    ),
    "turned away from the uplink port: address={address} reason={reason!r}"
    " not_logged={not_logged}": (
        "Somebody at the uplink's port could not prove to be one of `uplink.nodes`.",
        "If it is your node: the reason names CA, date or name. If not: let the firewall pass internal"
        " nodes alone.",
    ),
    "{gateway} says farewell: {reason!r}": ("The DMZ node ends the uplink, and says why.", ""),
    "{gateway} takes no new sessions any more": ("The DMZ node drains.", ""),
    "a data channel to {gateway} failed: {reason}": (
        "A connection for sessions to come could not be made.",
        "A firewall may limit connections, or want TLS where channels are clear (`RLGC`).",
    ),
    "dialling a data channel": (FAULT, REPORT),
    "greeting {gateway} failed": (FAULT, REPORT),
    "answering {command!r}": (FAULT, REPORT),
    # -- listeners
    "services declared: gateway={gateway} services={services} refused={refused}": (
        "What this node publishes, the DMZ node knows.",
        "",
    ),
    "{what}: listen={listen} service={service} protocol={protocol} node={node}": (
        "A listener opened, closed, or has one node more or less.",
        "",
    ),
    "listener refused: gateway={gateway} service={service} reason={reason!r}": (
        "The DMZ node does not open a service's listener.",
        "`policy.listen` of its file must permit it; the address must be free there.",
    ),
    "listener refused: node={node} service={service} reason={reason!r}": (
        "The same, in the DMZ.",
        "`policy.listen` of this file must permit it; the address must be free here.",
    ),
    "range bound: host={host} ports={first}-{last} count={count}": (
        "The data ports of FTP that passes unopened are open.",
        "",
    ),
    "range closed: host={host} ports={first}-{last}": ("They are closed again.", ""),
    "range has gaps: host={host} forbidden={missing} failed={count} first={reason}": (
        "Some of these ports cannot be opened; transfers on them fail.",
        "Permit all of them in `policy.listen`, and end who has them (`ss -ltnp`).",
    ),
    # -- clients
    "connection dropped: service={service} client={client} reason={reason!r}"
    " not_logged={not_logged}": (
        "Too many sessions are being opened, or too fast.",
        "Is it an attack? Ban it. Else raise `policy.max_pending…` or the rates.",
    ),
    "connection without PROXY header reset: proxy={proxy} reason={reason!r}"
    " not_logged={not_logged}": (
        "A member of `trusted_proxies` sent no PROXY header.",
        "Switch it on at the balancer; let its health checks use `[status]`.",
    ),
    "banned: network={network} seconds={seconds:g} reason={reason!r}": (
        "Too many failed log-ins or requests: the DMZ refuses this network for a while.",
        "`relaygate unban` if it is a partner.",
    ),
    "banned: networks={networks} seconds={seconds} reason='by command'": (
        "By `relaygate ban`.",
        "",
    ),
    "bans lifted by command: {lifted}": ("By `relaygate unban`.", ""),
    "bans set: node={node} told={told} full={full} bans={bans}": (
        "An internal node told its bans; `full` were not taken.",
        "If `full` is not 0: ban wider networks.",
    ),
    "not banned: {network} ({error})": ("There is no room for more bans.", "Ban wider networks."),
    "node passed over for a while: node={node} service={service} reason={reason!r}": (
        "A node has failed a client, and others are tried first.",
        "Look into that node's log at this moment.",
    ),
    "stranger closed on a passive port: address={address} port={port} not_logged={not_logged}": (
        "Somebody other than the session's client came to an FTP data port.",
        STRANGERS + "it leaves by several addresses, which belong into `service.ftp.peers`.",
    ),
    # -- backends
    "backend failed: session={session} service={service} backend={backend} reason={reason!r}": (
        "A server cannot be reached; the next one is tried.",
        "`relaygate doctor SERVICE`.",
    ),
    "backend {what}: service={service} backend={backend} reason={reason!r}": (
        "A server is passed over from now on, or is well again.",
        "`relaygate doctor SERVICE`.",
    ),
    "checking a backend of {name}": (FAULT, REPORT),
    "session {session} failed": (FAULT, REPORT),
    # -- FTP
    "session {session} data connection failed: {reason}": (
        "A data connection did not come about; the client heard 425.",
        "See [ftp.md](ftp.md): mostly a firewall before passive ports, or the public address.",
    ),
    "session {session} data connection failed: port {port} of the server: {reason}": (
        "The same, for FTP that passes unopened.",
        "The server's passive range must be the mapped one.",
    ),
    "data of session {session} failed": (FAULT, REPORT),
    "transfer of session {session} failed": (FAULT, REPORT),
    "data connection failed": (FAULT, REPORT),
    "data connection failed: {reason}": (
        "A data connection of an FTP entry did not come about.",
        "The partner's firewall, or its passive address.",
    ),
    "data connection dropped: client={client} has no session": (
        "Somebody came to an entry's data port without a control connection.",
        "",
    ),
    # -- entries
    "entry open: entry={entry} protocol={protocol} listen={listen}": ("Programs may use it.", ""),
    "forward {name} stays as it was: {reason}": (
        "A port of a changed entry cannot be opened, so its old settings hold.",
        "Free the port, or change `listen`; reload again.",
    ),
    "connection dropped: entry={entry} client={client} reason={reason!r} not_logged={not_logged}": (
        "The entry's `allow` has not this program, or a cap is reached.",
        "Add its network to `allow`, or raise the cap.",
    ),
    "gateway failed: session={session} entry={entry} gateway={gateway} reason={reason!r}": (
        "A DMZ node could not dial out; the next one is tried.",
        "Look into its log, and at `policy.connect` there.",
    ),
    # -- looking at it
    "{what}: {kind} {name}, {sessions} sessions run": ("By `relaygate drain` or `resume`.", ""),
    "admin.socket: cannot listen on {path}: {reason}": (
        "`relaygate status` and its like find no node.",
        "The folder must be there and the node's own: `RuntimeDirectory=` of the unit makes it; "
        "without systemd, `install -d -m 0700 -o USER FOLDER`.",
    ),
    "status.listen: cannot listen on {address}: {reason}": (
        "There is no page for balancers and monitors.",
        "Choose a free address.",
    ),
    "the status page failed": (FAULT, REPORT),
    "admin.listen: cannot listen: {reason}": (
        "There is no dashboard; all else goes on.",
        "Choose a free address: `ss -ltnp` says who has it.",
    ),
    "dashboard: {command} from {address}": ("Somebody with the token did this.", ""),
    "an admin command failed": (FAULT, REPORT),
    # -- words of sessions
    "session ID open": ("The backend has answered, and bytes flow.", ""),
    "session ID end": ("It is over: [logging.md](logging.md) has causes and phases.", ""),
    "session ID login": ("FTP: who logged in, or tried to.", ""),
    "session ID transfer": ("FTP: a file or a listing. `relaygate transfers` sums them.", ""),
    "session ID request": ("HTTP: a request that was opened inside.", ""),
    "session ID data": ("FTP that passes unopened: a data connection.", ""),
    "session ID refused": (
        "FTP: a command that would have bounced; entries: a destination that is not allowed.",
        "If a program should go there: the entry's `destinations`, and `policy.connect`.",
    ),
    "session ID backend lost": ("FTP: the server hung up.", "Look into its log."),
}

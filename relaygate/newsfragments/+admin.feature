`relaygate status` and `relaygate sessions` show what a running internal node does, and the DMZ nodes with it, through a unix
socket (`[admin] socket`); `--json` for programs.

`relaygate drain` and `relaygate resume` take a node, a service or a backend out and back; SIGTERM drains both programs for
`[stop] drain` seconds, and a second SIGTERM ends them.

Sessions are spread by `round-robin`, `failover`, `least-sessions` or `source`, with weights and backup backends, and clients may
keep their node and backend (`persistence`). Nodes and backends that fail are passed over for a while.

An operator sees the entries and what goes out by them, in `relaygate status`, `relaygate sessions`, the dashboard and the metrics.

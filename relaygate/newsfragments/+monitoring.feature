`etc/` holds alert rules for Prometheus with tests of theirs, and a dashboard for Grafana.

`etc/` holds hardened systemd units, an example for logrotate and a Containerfile. Both programs tell systemd when they are ready, when they read their files again, and that they are alive.

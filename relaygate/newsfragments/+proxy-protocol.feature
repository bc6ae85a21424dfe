PROXY protocol, versions 1 and 2: required from the load balancers that ``policy.trusted_proxies`` names, and sent to the backends of services with ``proxy_protocol``.

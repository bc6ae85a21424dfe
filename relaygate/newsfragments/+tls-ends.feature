A ``tls`` service with ``[service.tls]`` ends its clients' TLS on the internal node; certificates of services are read again when they change.

Services of ``ftp`` and ``ftps``: passive and active, clear, explicit and implicit TLS, with an audit line for each login and transfer.

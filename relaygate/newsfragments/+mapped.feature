FTP services may be passed through unopened (`pass_through`): TLS goes from the client to the server,
and a range of ports leads to the server's own, bound only while a session runs.

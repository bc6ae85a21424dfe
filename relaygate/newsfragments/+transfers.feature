`relaygate transfers` lists and sums what FTP moved, out of the log: by day, service, user, client or verb, as a table, CSV or JSON.

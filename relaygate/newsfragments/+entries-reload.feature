SIGHUP and `relaygate reload` apply changes of `[[forward]]` entries and their passwords without touching what stays; entries of a node that drains take no new sessions.

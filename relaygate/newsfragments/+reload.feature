SIGHUP, and `relaygate reload`, read a node's whole file again and apply only the difference: sessions live on, listeners that stay
are not touched, and a wrong file changes nothing.

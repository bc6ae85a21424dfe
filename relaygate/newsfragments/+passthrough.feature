SSH, SFTP and SCP, TLS and any other TCP service that stays in the private network can be published
through a DMZ node (``twistd relaygate-dmz``) by internal nodes (``twistd relaygate-internal``), which
dial out to one port of it.

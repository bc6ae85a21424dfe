``relaygate doctor`` tells where passive ports lie among those that the DMZ node's system lends to outgoing connections; the examples use ranges below them.

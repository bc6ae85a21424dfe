A program that leaves while its destination is dialled, or while a port waits for its partner, takes that with it at once. Programs that
say nothing keep nobody out of an entry, names that no server answers keep no other name waiting, one internal node cannot use up the
connections and ports of a DMZ node, and a DMZ node that does not answer, or drains, is passed by.

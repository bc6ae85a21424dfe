``make demo`` runs a whole gateway on one machine, moves files through it with real clients, and
compares what arrived with what was sent.

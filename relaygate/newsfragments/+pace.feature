An uplink on which a node says or wants too much is read more slowly, so that a node in the wrong hands cannot hold up the sessions of
the others.

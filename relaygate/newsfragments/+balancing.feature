Several internal nodes share the sessions of a service, and a node shares them among its backends: in
turn, or to the first that works. Whichever cannot be reached is passed over.

Behind a cut wire, where every internal node is silent, a client is told so in about ten seconds and not after its whole deadline.

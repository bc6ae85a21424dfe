Backends are watched (`[service.health]`): those where sessions fail are passed over until they are back, and checks may look at
them in turns. A service whose backends are all down is withdrawn.

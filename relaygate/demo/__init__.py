"""
The gateway at work on one machine: ``python -m relaygate.demo``.

A DMZ node, two internal nodes and the servers behind them run as processes of their own, on free
ports of the loopback address and out of one temporary folder. Clients move files through the
gateway, and what arrived is compared with what was sent.

A further protocol is a row in :data:`relaygate.demo.gateway.SERVICES`, a server in
:mod:`relaygate.demo.servers`, and a mover in a room of its own that
:func:`relaygate.demo.__main__.movers` names.
"""

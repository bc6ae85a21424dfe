"""The two programs, as twistd finds them."""

from twisted.application.service import ServiceMaker

relaygate_dmz = ServiceMaker(
    "relaygate DMZ node",
    "relaygate.dmz_tap",
    "The node in the DMZ: listeners for partners, one port for internal nodes.",
    "relaygate-dmz",
)

relaygate_internal = ServiceMaker(
    "relaygate internal node",
    "relaygate.internal_tap",
    "The node in the private network: dials out to DMZ nodes, and to backends.",
    "relaygate-internal",
)

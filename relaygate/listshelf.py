"""The lists of networks that internal nodes have put into the DMZ, one shelf for each uplink."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping

from relaygate.addresses import AddressError
from relaygate.commands import BadArgument, NotPossible, OutOfOrder
from relaygate.networks import FOUR, SIX, NetworkSet, NotSpans, Spans

# Bytes of all lists of one node: two million networks of IPv4, or half a million of IPv6.
MAX_BYTES = 16 * 1024 * 1024
# Two for each of a node's services.
MAX_LISTS = 2_200


class ListShelf:
    """
    The lists of one uplink.

    *known* has every list that any node has put and still uses, by name; so that one list of many
    nodes and services is held once, and is not sent again when an uplink comes back.
    """

    def __init__(self, known: MutableMapping[str, NetworkSet]) -> None:
        self._known = known
        self._lists: dict[str, NetworkSet] = {}
        self._name = ""
        self._next_page = 0
        self._four = Spans(FOUR)
        self._six = Spans(SIX)

    @property
    def size(self) -> int:
        """Bytes of the lists that stand here, or are on their way."""
        whole = sum(len(each.four) + len(each.six) for each in self._lists.values())
        return whole + len(self._four) + len(self._six)

    def put(self, name: str, page: int, last: bool, four: bytes, six: bytes) -> bool:
        """
        One page of the list *name*; whether the rest is not needed, since it is here already.

        Raises :class:`BadArgument`, :class:`OutOfOrder` or :class:`NotPossible`.
        """
        if page == 0:
            self._begin(name)
            found = self._known.get(name)
            if found is not None:
                self._add(found)
                return True
        if page != self._next_page or name != self._name:
            raise OutOfOrder(f"page {page} of a list came where {self._next_page} was due")
        try:
            self._four.add(four)
            self._six.add(six)
        except NotSpans as error:
            raise BadArgument(str(error)) from None
        self._next_page += 1
        if self.size > MAX_BYTES:
            self._begin("")
            raise NotPossible("the lists of this node are too long")
        if last:
            made = NetworkSet(bytes(self._four), bytes(self._six))
            self._begin("")
            if made.name != name:
                raise BadArgument("a list has another name than its networks make")
            self._known[name] = made
            self._add(made)
        return False

    def _begin(self, name: str) -> None:
        self._name, self._next_page = name, 0
        self._four, self._six = Spans(FOUR), Spans(SIX)

    def _add(self, networks: NetworkSet) -> None:
        if len(self._lists) >= MAX_LISTS and networks.name not in self._lists:
            raise NotPossible("this node has too many lists")
        self._lists[networks.name] = networks
        if self.size > MAX_BYTES:
            del self._lists[networks.name]
            raise NotPossible("the lists of this node are too long")

    def find(self, name: str | None) -> NetworkSet | None:
        """The list *name*, None for none; raises :class:`AddressError` if it was never put."""
        if not name:
            return None
        if name not in self._lists:
            raise AddressError("its list of networks has not come")
        return self._lists[name]

    def keep(self, names: Iterable[str | None]) -> None:
        """Forget all lists but *names*."""
        self._lists = {name: self._lists[name] for name in names if name and name in self._lists}

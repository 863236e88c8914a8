"""
Which addresses are taken, as far as anybody can know.

While there are VMs among the children of which nothing was ever read (this process began after vCenter had lost sight
of them) each of them may have any address. Then none is dealt out: two VMs under one address are worse than none more.
"""

import logging
from collections.abc import Collection

from forkyard.errors import CapacityExhausted, InvalidRequest, NotFound
from forkyard.hypervisors.vsphere.addresses import AddressBook
from forkyard.hypervisors.vsphere.inventory import Inventory
from forkyard.hypervisors.vsphere.parents import ParentFinder
from forkyard.hypervisors.vsphere.places import Places
from forkyard.hypervisors.vsphere.placing import Room
from forkyard.hypervisors.vsphere.vms import VmRow

logger = logging.getLogger(__name__)

_NAMED = 3


class TakenAddresses:
    """The addresses of the children that one vCenter has. Safe to use from several threads."""

    def __init__(self, book: AddressBook, parents: ParentFinder, places: Places, rules: Collection[str]) -> None:
        """Children are those of the parents by these *rules*."""
        self._book, self._parents, self._places, self._rules = book, parents, places, rules
        self._told: set[str] = set()

    def read(self, inventory: Inventory) -> set[str]:
        """
        All that no other child may get.

        Raises:
            CapacityExhausted: nobody can know them.
        """
        unknown = self.list_unknown(inventory)
        if unknown:
            text = (
                f"no address can be dealt out: {_describe(unknown)}, and may be children under any. "
                f"Bring their hosts and datastores back, or remove them from vCenter's inventory."
            )
            raise CapacityExhausted(text)
        return _list_known(inventory)

    def count_free(self, inventory: Inventory) -> Room:
        """How many children there are addresses for."""
        unknown = self.list_unknown(inventory)
        if unknown:
            return Room(0, _describe(unknown))
        return Room(self._book.count_free(_list_known(inventory)), "addresses")

    def list_unknown(self, inventory: Inventory) -> list[VmRow]:
        """The VMs where children are of which nothing is known; a warning says so once."""
        lost = [row for row in inventory.vms if row.unknown]
        unknown = self._leave_out_others(lost, inventory) if lost else []
        if {row.id for row in unknown} - self._told:
            logger.warning("%s: none of them is listed, and no child is made until they can be", _describe(unknown))
        self._told = {row.id for row in unknown}
        return unknown

    def _leave_out_others(self, lost: list[VmRow], inventory: Inventory) -> list[VmRow]:
        # Its folder is vCenter's own, and known of every VM. Any large vCenter has lost VMs of others somewhere.
        try:
            own = self._places.find_folder()
            folders = (
                {own}
                if own is not None
                else {row.folder for rule in self._rules for row in self._parents.list_candidates(rule, inventory)}
            )
        except (NotFound, InvalidRequest) as error:
            logger.warning("where children are is not known: %s", error)
            return lost
        return [row for row in lost if row.folder in folders]


def _list_known(inventory: Inventory) -> set[str]:
    return {row.mark.address for row in inventory.vms if row.mark is not None}


def _describe(unknown: list[VmRow]) -> str:
    names = ", ".join(f"{row.name} ({row.id}, {row.lost})" for row in unknown[:_NAMED])
    more = f" and {len(unknown) - _NAMED} more" if len(unknown) > _NAMED else ""
    return f"VMs that vCenter cannot read: {names}{more}"

"""
What vSAN's own health service says of the clusters whose datastores take children.

It answers at another path of vCenter's, in the same session. It is asked seldom, from its cache and not for long, and
only its red counts: no placement ever fails because this service is missing, slow, or not for us to ask.
"""

import logging
import threading
import time
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from forkyard.errors import ForkyardError
from forkyard.hypervisors.vsphere.api import vim
from forkyard.hypervisors.vsphere.faults import translated
from forkyard.hypervisors.vsphere.inventory import Inventory, ParentRow
from forkyard.hypervisors.vsphere.placing import choose_datastore
from forkyard.hypervisors.vsphere.session import Session

logger = logging.getLogger(__name__)

ASKED_EVERY = 60.0
"""Seconds for which an answer, or that there was none, is believed."""
ANSWER_WITHIN = 4.0
"""Seconds without a byte after which the health is unknown: somebody waits for the placements."""

_PATH = "/vsanHealth"
_VERSION = "vsan.version.version3"
"""vSAN 6.6: older than any vCenter that has Instant Clone."""
_SERVICE = "vsan-cluster-health-system"
_FIELDS = ["overallHealth", "overallHealthDescription"]
_ASKERS = 8
_LONGEST = 120


@dataclass(frozen=True, slots=True)
class _Answer:
    """What is believed of one cluster."""

    at: float
    red: str | None
    """What the service says to its red; None: anything but red."""
    unknown: bool = False


class VsanHealth:
    """The health of clusters, as one vCenter tells it. Safe to use from several threads."""

    def __init__(self, session: Session) -> None:
        """Ask in *session*; nothing is sent yet."""
        self._session = session
        self._lock = threading.Lock()
        self._answers: dict[str, _Answer] = {}

    def mark_ill(self, inventory: Inventory, parents: Sequence[ParentRow], chosen: str | None) -> Inventory:
        """
        The inventory with the vSAN datastores marked that take no children of these parents.

        *chosen* is the id of the datastore that takes all children, as for `make_placements`.
        """
        clusters = list_vsan_clusters(inventory, parents, chosen)
        red = self._find_red({cluster for found in clusters.values() for cluster in found})
        ill = {store: red[cluster] for store, found in clusters.items() for cluster in found if cluster in red}
        marked = {store: replace(inventory.datastores[store], ill=words) for store, words in ill.items()}
        return replace(inventory, datastores={**inventory.datastores, **marked}) if marked else inventory

    def _find_red(self, clusters: Collection[str]) -> dict[str, str]:
        # Under the lock: who comes meanwhile waits for this answer, and does not ask as well.
        with self._lock:
            oldest = time.monotonic() - ASKED_EVERY
            todo = [one for one in clusters if one not in self._answers or self._answers[one].at < oldest]
            if todo:
                with ThreadPoolExecutor(min(_ASKERS, len(todo)), thread_name_prefix="vsan") as pool:
                    self._answers.update(zip(todo, pool.map(self._ask, todo), strict=True))
            known = {one: self._answers[one].red for one in clusters}
        return {one: words for one, words in known.items() if words is not None}

    def _ask(self, cluster: str) -> _Answer:
        try:
            red = self._query(cluster)
        except Exception as error:  # noqa: BLE001 - for what it cannot read pyVmomi raises whatever it stumbles over
            before = self._answers.get(cluster)
            if before is None or not before.unknown:
                said = str(error) if isinstance(error, ForkyardError) else f"its answer cannot be read: {error!r}"
                logger.info("vSAN's health of %s: %s. Until it is known it bounds nothing.", cluster, said.rstrip("."))
            return _Answer(time.monotonic(), red=None, unknown=True)
        return _Answer(time.monotonic(), red)

    def _query(self, cluster: str) -> str | None:
        stub = self._session.stub_at(_PATH, version=_VERSION, timeout=ANSWER_WITHIN)
        service = vim.cluster.VsanVcClusterHealthSystem(_SERVICE, stub)
        asked = vim.ClusterComputeResource(cluster)
        with translated("asking for it", changes=False):
            summary = service.QueryClusterHealthSummary(cluster=asked, fields=_FIELDS, fetchFromCache=True)
        words = " ".join(str(summary.overallHealthDescription or "").split())[:_LONGEST]
        return words if summary.overallHealth == "red" else None


def list_vsan_clusters(inventory: Inventory, parents: Iterable[ParentRow], chosen: str | None) -> dict[str, list[str]]:
    """The ids of the clusters of the parents' hosts, by the vSAN datastore that takes the parents' children."""
    found: dict[str, list[str]] = {}
    for parent in parents:
        host = inventory.hosts.get(parent.host or "")
        store = choose_datastore(parent, inventory.datastores, chosen)
        if store is None or not store.vsan or host is None or host.cluster is None:
            continue
        there = found.setdefault(store.id, [])
        if host.cluster not in there:
            there.append(host.cluster)
    return found

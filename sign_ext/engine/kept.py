"""What is kept of a network between calls, and for all transforms of it.

A second call of `iterative_sign` makes a new transform. What it needs was found out in the first:
where Φ is read, the compiled programs and steps, and the layouts in which the network runs. They
belong to the network and are kept with it, under its watch (`network_state.py`), for as long as it
lives, but for the last few networks only. They keep neither the network nor images alive.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict

from torch import nn

from sign_ext.engine.eager import EagerLayouts
from sign_ext.engine.fused.programs import ProgramCache
from sign_ext.engine.known_layer import KnownLayers
from sign_ext.network_state import StructureWatch

NETWORKS_KEPT = 8
BYTES_KEPT = 2 << 30  # of all networks but the last one


class Kept:
    """What is kept of one network; several threads may use it.

    Attributes:
        structure: its watch.
        programs: its compiled programs and steps.
        layouts: the layouts in which its own forward pass runs.
        sources: where Φ is read.
    """

    def __init__(self, network: nn.Module) -> None:
        """Nothing is known yet.

        Args:
            network: the network.
        """
        self.structure = StructureWatch(network)
        self.programs = ProgramCache(network, self.structure)
        self.layouts = EagerLayouts(self.structure)
        self.sources = KnownLayers()

    def clear(self) -> None:
        """Forget everything."""
        self.programs.clear()
        self.layouts.clear()
        self.sources.clear()


# By the networks' ids, the last used last. An entry goes when its network does.
_kept: OrderedDict[int, tuple[weakref.ref[nn.Module], Kept]] = OrderedDict()
_free = threading.RLock()  # reentrant: a network may be collected at any moment


def kept_for(network: nn.Module) -> Kept:
    """What is kept of a network; it becomes the last used.

    Args:
        network: the network.
    """
    with _free:
        reference, kept = _kept.get(id(network), (None, None))
        if reference is None or kept is None or reference() is not network:
            address = id(network)
            reference = weakref.ref(network, lambda _: _kept.pop(address, None))
            kept = Kept(network)
            _kept[address] = (reference, kept)
        _kept.move_to_end(id(network))
        while len(_kept) > NETWORKS_KEPT or (len(_kept) > 1 and _bytes_kept() > BYTES_KEPT):
            _kept.popitem(last=False)
        return kept


def forget_kept(network: nn.Module) -> None:
    """Forget a network, in all transforms of it.

    Args:
        network: the network.
    """
    with _free:
        _, kept = _kept.pop(id(network), (None, None))
    if kept is not None:
        kept.clear()


def _bytes_kept() -> int:
    return sum(kept.programs.bytes() for _, kept in list(_kept.values())[:-1])

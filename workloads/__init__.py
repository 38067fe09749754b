"""What to ask of a system, and which checkers read the answers."""

from workloads.cart import ShoppingCart
from workloads.deletes import Deletes
from workloads.register import Register
from workloads.sessions import Sessions
from workloads.set import GrowingSet
from workloads.workload import Workload

WORKLOADS: dict[str, Workload] = {
    w.name: w for w in (ShoppingCart(), GrowingSet(), Register(), Sessions(), Deletes())
}
"""Every workload by its name; `sunder run --workload` takes these."""

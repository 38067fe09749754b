"""The shopping cart of the Dynamo paper, as an OR-Set: siblings are reconciled by the client, and what was removed stays removed.

The paper's own merge is the plain union of siblings, and it says itself (section 4.4) that deleted items can resurface. Here
every addition carries a unique tag and a removal names the tags that it saw (Shapiro et al. 2011, observed-remove set).
"""

from __future__ import annotations

from history.generator import Ask, Context, Generator, fn, stagger
from history.op import Op, Process
from workloads import body
from workloads.client import Client
from workloads.connection import Connection
from workloads.requests import Read, Recorder, Requests, outcome
from workloads.workload import Options


class Cart(body.Body, frozen=True):
    """Tags added and tags removed. An item is added only once, so its number is its tag."""

    added: list[int]
    removed: list[int]

    def items(self) -> list[int]:
        return sorted(set(self.added) - set(self.removed))


class ShoppingCart:
    name = "cart"
    sentence = "Shopping carts; clients add and remove items and reconcile siblings themselves, as an OR-Set."
    checkers = ("cart", "lost_writes", "siblings", "convergence", "availability")
    final_f = "read"

    def keys(self, options: Options) -> list[str]:
        return [f"cart{i}" for i in range(max(1, options.keys // 2))]

    def generator(self, options: Options) -> Generator:
        keys = self.keys(options)

        def ask(ctx: Context, i: int) -> Ask:
            """Five adds, three removes and two reads in ten. A remove takes an item that was asked for lately."""
            choice = ctx.draw("f", i) % 10
            cart = ctx.draw("cart", i) % len(keys)
            if choice < 2:
                return Ask("read", keys[cart])
            # Which earlier operations were adds of this cart can be drawn again: draws are keyed by number.
            if choice < 5:
                for back in range(1, min(i, 200) + 1):
                    j = i - 1 - (ctx.draw("back", i) + back) % min(i, 200)
                    if ctx.draw("cart", j) % len(keys) == cart and ctx.draw("f", j) % 10 >= 5:
                        return Ask("remove", keys[cart], j + 1, meta={"id": i + 1})
            return Ask("add", keys[cart], i + 1, meta={"id": i + 1})

        return stagger(int(1e9 / options.rate), fn("cart", ask))

    def client(self, connection: Connection, process: Process, options: Options) -> Client:
        return _Client(connection, options.n)


def merge(read: Read) -> Cart:
    """All siblings reconciled: everything added, less everything that anybody saw and removed."""
    carts = body.readable(read.siblings.values, Cart)
    added = sorted({tag for cart in carts for tag in cart.added})
    removed = sorted({tag for cart in carts for tag in cart.removed})
    return Cart(0, added, removed)


class _Client:
    def __init__(self, connection: Connection, n: int) -> None:
        self._connection = connection
        self._requests = Requests(connection, n)

    def prepare(self, op: Op) -> Op:
        return Op(op.process, "invoke", op.f, op.key, op.value, node=self._connection.node, meta=op.meta)

    async def invoke(self, op: Op, recorder: Recorder) -> Op:
        got, read = await self._requests.get(op, recorder)
        if got.type != "ok":
            return op.completed("fail", op.value, error=got.error)
        cart = merge(read)
        match op.f:
            case "read":
                return op.completed("ok", cart.items())
            case "add":
                after = Cart(op.meta["id"], [*cart.added, op.value], cart.removed)
                return outcome(op, await self._put(op, recorder, after, read))
            case _:
                if op.value not in cart.items():
                    return op.completed("ok", op.value, observed=False)
                after = Cart(op.meta["id"], cart.added, [*cart.removed, op.value])
                return outcome(op, await self._put(op, recorder, after, read), observed=True)

    async def _put(self, op: Op, recorder: Recorder, after: Cart, read: Read) -> Op:
        return await self._requests.put(op, recorder, after.id, body.encode(after), read)

    def close(self) -> None:
        self._connection.close()

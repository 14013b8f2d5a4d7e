"""The run on a Ray cluster: Ray Data over actors that each hold a worker; lines and order are those of ``local``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from coop_edge.annotate.items import Item
from coop_edge.annotate.worker import Setup, Worker
from coop_edge.base.missing import install_extra
from coop_edge.base.pool import THREAD_VARIABLES
from coop_edge.errors import BackendUnavailable, InputError

_BLOCK = 4  # images that one task takes: what a worker's death does again


class _Actor:
    """One worker in a Ray actor."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self._worker = Worker(Setup.parse(setup))

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        return {"line": [self._worker(Item.parse(str(text))) for text in batch["item"]]}


def run_on_ray(items: Sequence[Item], setup: Setup, workers: int, address: str | None) -> Iterator[str]:
    """Yield the lines of all items, in their order, as they come.

    An actor takes one CPU per thread, or one GPU on the device "cuda"; workers are as many as the cluster has room for
    if 0. What an actor was doing when it died, Ray does again in another. Images, meshes and engines must lie at the
    same paths on every node.

    Raises:
        BackendUnavailable: Ray is not installed.
        InputError: there is no cluster at this address.
    """
    if not items:
        return
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendUnavailable(f"--ray needs Ray ({error}): {install_extra('ray')}") from None
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {address}: no cluster there: {error}") from None
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    need: dict[str, Any] = {"num_gpus": 1} if setup.device == "cuda" else {"num_cpus": max(1, setup.threads)}
    room = int(ray.cluster_resources().get("GPU" if "num_gpus" in need else "CPU", 1))
    count = workers or max(1, room // next(iter(need.values())))
    try:
        rows = ray.data.from_items(
            [{"item": item.plain()} for item in items], override_num_blocks=-(-len(items) // _BLOCK)
        )
        lines = rows.map_batches(
            _Actor,
            fn_constructor_args=(setup.plain(),),
            batch_size=_BLOCK,
            compute=_pool(ray, count),
            runtime_env={"env_vars": dict.fromkeys(THREAD_VARIABLES, str(setup.threads))},
            **need,
        )
        for row in lines.iter_rows():
            yield row["line"]
    finally:
        if mine:
            ray.shutdown()


def _pool(ray: Any, count: int) -> Any:
    return ray.data.ActorPoolStrategy(size=count)

"""The run on a Ray cluster: Ray Data over actors that each hold a worker; lines and order are those of ``local``."""

from __future__ import annotations

import contextlib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from coop_edge import errors
from coop_edge.annotate.items import Item
from coop_edge.annotate.worker import Setup, Worker, lost_line
from coop_edge.base.missing import install_extra
from coop_edge.base.pool import RETRIES, THREAD_VARIABLES
from coop_edge.errors import BackendUnavailable, CoopEdgeError, InputError, quoted

_BLOCK = 4  # images that one task takes: what a worker's death does again


class _Actor:
    """One worker in a Ray actor. What keeps it from being made is its answer: Ray would start others in vain."""

    def __init__(self, make: Callable[[Setup], Callable[[Item], str]], setup: dict[str, Any]) -> None:
        self._error = ("", "")
        try:
            self._worker = make(Setup.parse(setup))
        except (CoopEdgeError, OSError) as error:
            self._error = (type(error).__name__, str(error))
        except Exception:  # a bug: the driver shows this trace in place of its own
            self._error = ("RuntimeError", traceback.format_exc())

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        count = len(batch["item"])
        kind, text = ([part] * count for part in self._error)
        lines = [""] * count if self._error[0] else [self._worker(Item.parse(str(each))) for each in batch["item"]]
        return {"place": batch["place"], "line": lines, "kind": kind, "text": text}


def run_on_ray(items: Sequence[Item], setup: Setup, workers: int, address: str | None) -> Iterator[str]:
    """Yield the lines of all items, in their order, as they come.

    An actor takes one CPU per thread, or one GPU on the device "cuda"; workers are as many as the cluster has room for
    if 0. What an actor was doing when it died, Ray does again in another; images that no worker survives are named in
    their lines, as ``run_local`` does it. Images, meshes and engines must lie at the same paths on every node.

    Raises:
        BackendUnavailable: Ray is not installed, or the cluster fails while it works.
        InputError: there is no cluster at this address.
        CoopEdgeError: what a worker's Estimator raises when it is made.
    """
    if not items:
        return
    with _cluster(address) as ray:
        following = 0
        while following < len(items):
            missing = len(items)
            with contextlib.closing(_pass(ray, items[following:], setup, workers)) as rows:
                start = following
                for row in rows:
                    if start + row["place"] != following:
                        missing = start + row["place"]
                        break
                    yield _line(row)
                    following += 1
            yield from _alone(ray, items[following:missing], setup)
            following = missing


def import_ray() -> Any:
    """Return the package ray.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise BackendUnavailable(f"--ray needs Ray ({error}): {install_extra('ray')}") from None
    return ray


@contextlib.contextmanager
def _cluster(address: str | None) -> Iterator[Any]:
    """Give Ray, connected to a cluster; one that was not there before ends with the block."""
    ray = import_ray()
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=address, log_to_driver=False, include_dashboard=False if address is None else None)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--ray {address or 'local'}: no cluster there: {quoted(error)}") from None
    try:
        yield ray
    except ray.exceptions.RayTaskError:
        raise  # a bug, whose trace is wanted
    except ray.exceptions.RayError as error:
        raise BackendUnavailable(f"--ray: the cluster failed: {quoted(error)}; the same command goes on") from error
    finally:
        if mine:
            ray.shutdown()


def _pass(ray: Any, items: Sequence[Item], setup: Setup, workers: int) -> Any:
    """Return a generator of the items' rows, in order; those of blocks whose actor died ``RETRIES`` times are left out.

    An actor is restarted however often it died: a long run loses many nodes, which is no image's fault.
    """
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    context.max_errored_blocks = -1  # they are done again, image by image
    need = _need(setup)
    room = int(ray.cluster_resources().get("GPU" if "num_gpus" in need else "CPU", 1))
    jobs = [{"place": i, "item": item.plain()} for i, item in enumerate(items)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ray_remote_args")  # the one way to bound retries; gone in Ray 2.64
        rows = ray.data.from_items(jobs, override_num_blocks=-(-len(items) // _BLOCK)).map_batches(
            _Actor,
            fn_constructor_args=(Worker, setup.plain()),
            batch_size=_BLOCK,
            compute=ray.data.ActorPoolStrategy(size=workers or max(1, room // next(iter(need.values())))),
            max_task_retries=RETRIES - 1,
            **need,
            runtime_env=_environment(setup),
        )
    return iter(rows.iter_rows())


def _alone(ray: Any, items: Sequence[Item], setup: Setup) -> Iterator[str]:
    """Yield the lines of items one after the other, in an actor that does nothing else; a new one after each death."""
    actor = None
    options = {**_need(setup), "max_restarts": 0, "runtime_env": _environment(setup)}
    for item in items:
        actor = actor or ray.remote(_Actor).options(**options).remote(Worker, setup.plain())
        try:
            answer = ray.get(actor.__call__.remote({"place": [item.index], "item": [item.plain()]}))
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            actor = None
            yield lost_line(item)
        else:
            yield _line({name: values[0] for name, values in answer.items()})
    if actor is not None:
        ray.kill(actor)


def _line(row: dict[str, Any]) -> str:
    """Return a row's line. Raises the error for which the actor has no worker."""
    if row["kind"]:
        known = {**vars(errors), "OSError": OSError}
        raise known.get(row["kind"], RuntimeError)(row["text"])
    return str(row["line"])


def _need(setup: Setup) -> dict[str, Any]:
    return {"num_gpus": 1} if setup.device == "cuda" else {"num_cpus": max(1, setup.threads)}


def _environment(setup: Setup) -> dict[str, Any]:
    return {"env_vars": dict.fromkeys(THREAD_VARIABLES, str(setup.threads))}

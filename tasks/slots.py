"""Waits until a stage may use GPUs: slots of the limit over all machines, and free devices on this machine.

The limit is the Prefect concurrency limit `mixcpt-gpu`; without it, the number of GPUs is not limited. Slots are
leased: the server releases the slots of a dead holder after a minute. This module renews the lease itself, because
Prefect's context manager gives up a lease after three failed renewals, and its wait cannot be cancelled or shown.
"""

import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.client.schemas.responses import GlobalConcurrencyLimitResponse
from prefect.exceptions import ObjectNotFound

from mixcpt.config import RuntimeConfig
from mixcpt.errors import ConfigError
from mixcpt.process.devices import Busy, DeviceClaim, num_wanted, try_claim, usable_devices

LIMIT = "mixcpt-gpu"
_LEASE_SECONDS = 60.0
"""Shortest lease that the server accepts."""
_RENEW_SECONDS = 15.0
_SERVER_POLL_SECONDS = 3.0
_LOCK_POLL_SECONDS = 1.0
_log = logging.getLogger("mixcpt.slots")

Wait = Callable[[str, float], None]
"""Shows a reason and waits some seconds; raises an error if the run is cancelled."""


@contextmanager
def gpus(runtime: RuntimeConfig, run: str, flow_run_id: str, wait: Wait, *, distributed: bool) -> Iterator[DeviceClaim]:
    """Wait for free GPUs of this machine, yield them, and release them after the block.

    Raises:
        ConfigError: If the stage needs more GPUs than exist.
    """
    usable = usable_devices()
    wanted = num_wanted(runtime, len(usable), distributed=distributed)
    uses_other_machines = distributed and runtime.launcher and runtime.devices < 0
    with leased_slots(runtime.num_processes if uses_other_machines else wanted, flow_run_id, wait):
        claim = _wait_for_devices(usable, wanted, run, wait) if wanted else DeviceClaim(())
        try:
            yield claim
        finally:
            claim.release()


def _wait_for_devices(usable: tuple[str, ...], wanted: int, run: str, wait: Wait) -> DeviceClaim:
    while isinstance(claim := try_claim(usable, wanted, run), Busy):
        wait(str(claim), _LOCK_POLL_SECONDS)
    return claim


@contextmanager
def leased_slots(num: int, flow_run_id: str, wait: Wait) -> Iterator[None]:
    """Hold `num` slots of the limit over all machines; nothing if there is no limit.

    Raises:
        ConfigError: If the limit is lower than `num`.
    """
    limit = _limit() if num else None
    if limit is None:
        yield
        return
    if limit.limit < num:
        raise ConfigError(
            f"a stage needs {num} GPUs, but the Prefect concurrency limit {LIMIT} is {limit.limit}",
            f"raise it: prefect gcl update {LIMIT} --limit {num}",
        )
    lease = _Lease(num, flow_run_id)
    while not lease.take():
        wait(f"waiting for {num} of the {limit.limit} slots of {LIMIT}, which other runs hold", _SERVER_POLL_SECONDS)
    with lease.renewed():
        yield


def _limit() -> GlobalConcurrencyLimitResponse | None:
    try:
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(LIMIT)
    except ObjectNotFound:
        return None
    except httpx.HTTPError as error:
        _log.warning("cannot read the limit %s from the Prefect server (%s): continuing without it", LIMIT, error)
        return None


class _Lease:
    """Slots leased from the server."""

    def __init__(self, num: int, flow_run_id: str) -> None:
        self.num = num
        self.holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(flow_run_id)) if flow_run_id else None
        self.id: UUID | None = None
        self.ended = threading.Event()

    def take(self) -> bool:
        """Try to lease the slots and return whether that succeeded; it fails if the server is unreachable."""
        try:
            with get_client(sync_client=True) as client:
                response = client.increment_concurrency_slots_with_lease(
                    [LIMIT], self.num, "concurrency", _LEASE_SECONDS, self.holder
                )
        except httpx.HTTPError:
            return False
        self.id = UUID(response.json()["lease_id"])
        return True

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Renew the lease in the background until the block ends, then release the slots."""
        context = contextvars.copy_context()  # contains the address of the server
        thread = threading.Thread(target=context.run, args=(self._renew_until_the_end,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.ended.set()
            thread.join()
            if self.id is not None:
                with suppress(httpx.HTTPError), get_client(sync_client=True) as client:
                    client.release_concurrency_slots_with_lease(self.id)

    def _renew_until_the_end(self) -> None:
        while not self.ended.wait(_RENEW_SECONDS):
            if self.id is None:
                self.take()
            else:
                self._renew(self.id)

    def _renew(self, lease: UUID) -> None:
        """Renew the lease; if it expired while the server was unreachable, take a new one when slots are free."""
        try:
            with get_client(sync_client=True) as client:
                client.renew_concurrency_lease(lease, _LEASE_SECONDS)
        except httpx.HTTPStatusError as error:
            is_gone = error.response.status_code in (404, 410)
            self.id = None if is_gone else lease
            if is_gone and not self.take():
                _log.warning("the lease of %s expired and other runs took its slots: the limit is exceeded", LIMIT)
        except httpx.HTTPError:
            pass  # tried again after `_RENEW_SECONDS`

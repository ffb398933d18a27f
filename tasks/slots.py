"""What a heavy stage needs before it may start: its share of the GPUs of all machines, and free ones on this machine.

The share is a Prefect concurrency limit with the name `mixcpt-gpu`; where nobody made one there is no bound. It is
leased: the server frees what a dead holder had a minute later. Prefect's own context manager gives a lease up after
three failed renewals, and waits where it cannot be cancelled or seen; so the lease is kept here, while the stage lasts.
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
from mixcpt.process.devices import Busy, Claim, num_wanted, try_claim, usable_devices

LIMIT = "mixcpt-gpu"
_LEASE_SECONDS = 60.0
"""The shortest that the server gives."""
_RENEW_SECONDS = 15.0
_SERVER_POLL_SECONDS = 3.0
_LOCK_POLL_SECONDS = 1.0
_log = logging.getLogger("mixcpt.slots")

Wait = Callable[[str, float], None]
"""Shows a reason, and returns after some seconds; raises where the run is to end instead."""


@contextmanager
def gpus(runtime: RuntimeConfig, run: str, flow_run_id: str, wait: Wait, *, distributed: bool) -> Iterator[Claim]:
    """Yields the GPUs of this machine that are this stage's until it ends; waits until they are free.

    Raises:
        ConfigError: If the stage asks for more than there are.
    """
    usable = usable_devices()
    wanted = num_wanted(runtime, len(usable), distributed=distributed)
    elsewhere = distributed and runtime.launcher and runtime.devices < 0
    with leased_slots(runtime.num_processes if elsewhere else wanted, flow_run_id, wait):
        claim = _wait_for_devices(usable, wanted, run, wait) if wanted else Claim(())
        try:
            yield claim
        finally:
            claim.release()


def _wait_for_devices(usable: tuple[str, ...], wanted: int, run: str, wait: Wait) -> Claim:
    while isinstance(answer := try_claim(usable, wanted, run), Busy):
        wait(str(answer), _LOCK_POLL_SECONDS)
    return answer


@contextmanager
def leased_slots(num: int, flow_run_id: str, wait: Wait) -> Iterator[None]:
    """Holds `num` slots of the limit over all machines, where there is one.

    Raises:
        ConfigError: If the limit is lower than `num`.
    """
    limit = _limit() if num else None
    if limit is None:
        yield
        return
    if limit.limit < num:
        raise ConfigError(
            f"a stage takes {num} GPUs, and the Prefect concurrency limit {LIMIT} is {limit.limit}",
            f"raise it: prefect gcl update {LIMIT} --limit {num}",
        )
    lease = _Lease(num, flow_run_id)
    while not lease.take():
        wait(f"waiting for {num} of the {limit.limit} slots of {LIMIT}, which other runs hold", _SERVER_POLL_SECONDS)
    with lease.kept():
        yield


def _limit() -> GlobalConcurrencyLimitResponse | None:
    try:
        with get_client(sync_client=True) as client:
            return client.read_global_concurrency_limit_by_name(LIMIT)
    except ObjectNotFound:
        return None
    except httpx.HTTPError as error:
        _log.warning("the Prefect server does not say whether there is a limit %s (%s): going on without", LIMIT, error)
        return None


class _Lease:
    """Slots on loan from the server."""

    def __init__(self, num: int, flow_run_id: str) -> None:
        self.num = num
        self.holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(flow_run_id)) if flow_run_id else None
        self.id: UUID | None = None
        self.ended = threading.Event()

    def take(self) -> bool:
        """Returns whether the slots are ours now; a server that does not answer has none to give."""
        try:
            with get_client(sync_client=True) as client:
                answer = client.increment_concurrency_slots_with_lease(
                    [LIMIT], self.num, "concurrency", _LEASE_SECONDS, self.holder
                )
        except httpx.HTTPError:
            return False
        self.id = UUID(answer.json()["lease_id"])
        return True

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Renews the lease in the background until this block ends, then gives the slots back."""
        context = contextvars.copy_context()  # it knows the server's address
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
        """Lengthens the lease; one that ran out while the server was away is taken anew as soon as slots are free."""
        try:
            with get_client(sync_client=True) as client:
                client.renew_concurrency_lease(lease, _LEASE_SECONDS)
        except httpx.HTTPStatusError as error:
            if error.response.status_code in (404, 410):
                self.id = None
                if not self.take():
                    _log.warning("the lease of %s ran out, and others took its slots: more run than it allows", LIMIT)
        except httpx.HTTPError:
            pass  # the next try is soon

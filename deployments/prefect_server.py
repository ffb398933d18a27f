"""Prefect's command line with safe transactions in SQLite: `python -m deployments.prefect_server server start`.

Prefect takes the lock of a transaction at its first write. If another transaction has written since its first read,
SQLite refuses the write at once, and the server answers 503. Prefect's clients try again, but its pages do not: a form
that is submitted while the server is busy would start no run. Here every transaction takes its lock when it begins, and
waits for the lock.
"""

from contextlib import AbstractAsyncContextManager

from prefect.cli import app
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_begin = AioSqliteConfiguration.begin_transaction


def begin_with_lock(
    configuration: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    """Begin a transaction that waits for the lock of the database, whether or not the caller plans to write."""
    return _begin(configuration, session, with_for_update=True)


def lock_early() -> None:
    """Let every transaction of this process take its lock when it begins."""
    AioSqliteConfiguration.begin_transaction = begin_with_lock  # type: ignore[method-assign,assignment]


if __name__ == "__main__":
    lock_early()
    app()

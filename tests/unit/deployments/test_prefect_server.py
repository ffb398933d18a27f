"""Transactions of Prefect's server in SQLite: a write after a read succeeds while another one writes."""

import asyncio
from pathlib import Path

import pytest
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text

from deployments.prefect_server import lock_early


async def number_after_two_writers(path: Path) -> int:
    """Let a second transaction write between the read and the write of a first one, and return the number of writes."""
    configuration = AioSqliteConfiguration(f"sqlite+aiosqlite:///{path}")
    engine = await configuration.engine()

    async def write_from_elsewhere() -> None:
        async with await configuration.session(engine) as session, configuration.begin_transaction(session):
            await session.execute(text("UPDATE numbers SET value = value + 1"))

    async with await configuration.session(engine) as session:
        async with configuration.begin_transaction(session):
            await session.execute(text("CREATE TABLE numbers AS SELECT 0 AS value"))
        async with configuration.begin_transaction(session):
            await session.execute(text("SELECT value FROM numbers"))
            other = asyncio.create_task(write_from_elsewhere())
            await asyncio.wait([other], timeout=0.5)
            await session.execute(text("UPDATE numbers SET value = value + 1"))
        await other
        number = (await session.execute(text("SELECT value FROM numbers"))).scalar_one()
    await engine.dispose()
    return int(number)


def test_transaction_that_reads_first_is_not_refused_while_another_one_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AioSqliteConfiguration, "begin_transaction", AioSqliteConfiguration.begin_transaction)
    lock_early()
    assert asyncio.run(number_after_two_writers(tmp_path / "numbers.db")) == 2

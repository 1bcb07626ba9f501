"""alembic's environment: runs on the engine that drpilot hands over, or on DRPILOT_DATABASE_URL by hand.

Foreign keys are off while a table is rebuilt: with them on, SQLite's batch mode deletes all child rows of a
rebuilt parent without a word. They are checked before the migration is committed. `guard` is drpilot's own look whether
anybody works with the journal: it runs inside the migration's transaction, and lets one program migrate at a time.
"""

from __future__ import annotations

import os

from alembic import context
from sqlalchemy import Connection, Engine, create_engine

from drpilot.journal.tables import metadata


def foreign_keys(connection: Connection, word: str) -> None:
    """Set the pragma outside any transaction, where alone it has an effect."""
    driver = connection.connection.driver_connection
    if driver is not None:
        driver.execute(f"PRAGMA foreign_keys={word}")


guard = context.config.attributes.get("guard")
engine: Engine = context.config.attributes.get("engine") or create_engine(os.environ["DRPILOT_DATABASE_URL"])
with engine.connect() as connection:
    sqlite = connection.dialect.name == "sqlite"
    if sqlite:
        foreign_keys(connection, "OFF")
    context.configure(
        connection=connection, target_metadata=metadata, render_as_batch=sqlite, transactional_ddl=True
    )
    try:
        with context.begin_transaction():
            if guard is not None:
                guard(connection)
            context.run_migrations()
            if sqlite and connection.exec_driver_sql("PRAGMA foreign_key_check").first() is not None:
                raise RuntimeError(
                    "the migration left rows without their parents; the journal was not changed"
                )
        connection.commit()
    finally:
        connection.rollback()  # what failed; the pragma has no effect inside a transaction
        if sqlite:
            foreign_keys(connection, "ON")

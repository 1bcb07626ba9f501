"""What a simulated cloud keeps on disk: rows, block maps, content-addressed blocks and sparse volume files.

Rows and block maps live in one SQLite file (write-ahead log, no fsync: a killed process loses nothing, a
lab does not outlive its machine). Snapshot blocks are files named by their SHA-256 and are never changed, so
a saved point of the whole lab copies only the SQLite file and the volume files that changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

__all__ = ["BLOCK_BYTES", "GIB", "MissingBlock", "Store", "digest_of"]

BLOCK_BYTES = 524_288
"""Size of a snapshot block (EBS direct API reference, ListSnapshotBlocks: BlockSize)."""
GIB = 1 << 30
_ZERO_BLOCK = bytes(BLOCK_BYTES)
_SETTLED_S = 1.0


_ZERO_DIGEST = hashlib.sha256(_ZERO_BLOCK).hexdigest()


def digest_of(hashed: Mapping[int, str]) -> str:
    """SHA-256 (hex) over the lines `index sha256` of all blocks that are not zero, ascending: equal for equal
    bytes whatever holes they have, and quick for the mostly empty volumes of a lab.
    """
    lines = (f"{place} {hashed[place]}\n" for place in sorted(hashed) if hashed[place] != _ZERO_DIGEST)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


class MissingBlock(Exception):
    """The bytes of a snapshot block are gone from the disk."""


class Store:
    """The disk of one simulated cloud, in `directory` (created when missing)."""

    def __init__(self, directory: Path, wall: Callable[[], float]) -> None:
        """`wall` gives seconds since 1970; it only decides whether a file's time stamp can be trusted."""
        self.directory = directory
        self._wall = wall
        self._lock = threading.RLock()
        self._maps: dict[str, dict[int, str]] = {}
        self._captures: dict[str, tuple[tuple[int, int, int], dict[int, str]]] = {}
        for part in ("blocks", "volumes", "labels"):
            (directory / part).mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(
            directory / "rows.sqlite", check_same_thread=False, isolation_level=None, timeout=10
        )
        self._database.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
            "CREATE TABLE IF NOT EXISTS row (kind TEXT, id TEXT, body TEXT, PRIMARY KEY (kind, id));"
            "CREATE TABLE IF NOT EXISTS block (snapshot TEXT, place INTEGER, digest TEXT, own INTEGER,"
            " PRIMARY KEY (snapshot, place)) WITHOUT ROWID;"
        )

    def close(self) -> None:
        """Close the database; the store can't be used afterwards."""
        with self._lock:
            self._database.close()

    # -- rows -----------------------------------------------------------------------------------------

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Every row as (table, id, JSON text), in the order of creation."""
        with self._lock:
            yield from self._database.execute("SELECT kind, id, body FROM row ORDER BY rowid").fetchall()

    def begin(self) -> None:
        """Open a transaction for block maps and rows, if none is open."""
        with self._lock:
            if not self._database.in_transaction:
                self._database.execute("BEGIN IMMEDIATE")

    def write(self, changes: Iterable[tuple[str, str, str | None]]) -> None:
        """Store rows (table, id, JSON text; None deletes) and commit them with everything since `begin`."""
        with self._lock:
            self.begin()
            for kind, row_id, body in changes:
                if body is None:
                    self._database.execute("DELETE FROM row WHERE kind=? AND id=?", (kind, row_id))
                else:
                    self._database.execute(
                        "INSERT INTO row VALUES (?,?,?) ON CONFLICT DO UPDATE SET body=excluded.body",
                        (kind, row_id, body),
                    )
            self._database.execute("COMMIT")

    def roll_back(self) -> None:
        """Forget what was not committed."""
        with self._lock:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            self._maps.clear()

    @property
    def changing(self) -> bool:
        """Whether block maps changed since the last commit."""
        return self._database.in_transaction

    # -- blocks ---------------------------------------------------------------------------------------

    def block_path(self, digest: str) -> Path:
        """Where the block with SHA-256 `digest` (hex) lies."""
        return self.directory / "blocks" / digest[:2] / digest

    def put_block(self, data: bytes, digest: str | None = None) -> str:
        """Keep one block of 524,288 bytes and give its SHA-256 as hex (`digest`, where it is known)."""
        if len(data) != BLOCK_BYTES:
            raise ValueError(f"a block has {BLOCK_BYTES} bytes, not {len(data)}")
        digest = digest or hashlib.sha256(data).hexdigest()
        path = self.block_path(digest)
        if not path.exists():
            path.parent.mkdir(exist_ok=True)
            draft = path.with_name(f"{digest}.{threading.get_ident()}")
            draft.write_bytes(data)
            os.replace(draft, path)
        return digest

    def has_block(self, digest: str) -> bool:
        """Whether the bytes of `digest` are here."""
        return self.block_path(digest).exists()

    def get_block(self, digest: str) -> bytes:
        """The 524,288 bytes of `digest`; raises MissingBlock when they are gone."""
        try:
            return self.block_path(digest).read_bytes()
        except FileNotFoundError:
            raise MissingBlock(digest) from None

    def block_map(self, snapshot_id: str) -> dict[int, str]:
        """Block index to SHA-256 (hex) of every block a snapshot holds; don't change it in place."""
        with self._lock:
            if snapshot_id not in self._maps:
                found = self._database.execute(
                    "SELECT place, digest FROM block WHERE snapshot=? ORDER BY place", (snapshot_id,)
                )
                self._maps[snapshot_id] = dict(found.fetchall())
            return self._maps[snapshot_id]

    def own_blocks(self, snapshot_id: str) -> dict[int, str]:
        """As `block_map`, but only the blocks that were written to it directly, not those it inherited."""
        with self._lock:
            found = self._database.execute(
                "SELECT place, digest FROM block WHERE snapshot=? AND own=1", (snapshot_id,)
            )
            return dict(found.fetchall())

    def set_blocks(self, snapshot_id: str, blocks: Mapping[int, str], *, own: bool = False) -> None:
        """Add or replace blocks in a snapshot's map; durable with the next `write`. `own` marks blocks that
        are written to the snapshot itself.
        """
        with self._lock:
            known = self.block_map(snapshot_id)
            self.begin()
            self._database.executemany(
                "INSERT OR REPLACE INTO block VALUES (?,?,?,?)",
                [(snapshot_id, place, digest, own) for place, digest in blocks.items()],
            )
            known.update(blocks)

    def drop_map(self, snapshot_id: str) -> None:
        """Forget the map of a deleted snapshot; its blocks stay for others and for saved points."""
        with self._lock:
            self.begin()
            self._database.execute("DELETE FROM block WHERE snapshot=?", (snapshot_id,))
            self._maps.pop(snapshot_id, None)

    # -- volumes --------------------------------------------------------------------------------------

    def volume_path(self, volume_id: str) -> Path:
        """The sparse file that is the volume."""
        return self.directory / "volumes" / f"{volume_id}.img"

    def create_volume(self, volume_id: str, size_bytes: int, blocks: Mapping[int, str]) -> None:
        """Make the volume's file, filled from `blocks`; a block whose bytes are lost reads as zeros."""
        with open(self.volume_path(volume_id), "wb") as file:
            file.truncate(size_bytes)
            for place, digest in blocks.items():
                try:
                    data = self.get_block(digest)
                except MissingBlock:
                    continue
                if data != _ZERO_BLOCK:
                    os.pwrite(file.fileno(), data, place * BLOCK_BYTES)

    def delete_volume(self, volume_id: str) -> None:
        """Remove the volume's file, if there is one."""
        self.volume_path(volume_id).unlink(missing_ok=True)

    def resize_volume(self, volume_id: str, size_bytes: int) -> None:
        """Grow the volume's file to `size_bytes`."""
        os.truncate(self.volume_path(volume_id), size_bytes)

    def write_volume(self, volume_id: str, offset: int, data: bytes) -> None:
        """Write `data` at byte `offset`, as the software on an instance would."""
        with open(self.volume_path(volume_id), "r+b") as file:
            if offset + len(data) > os.fstat(file.fileno()).st_size:
                raise ValueError(f"{len(data)} bytes at {offset} reach beyond the end of {volume_id}")
            os.pwrite(file.fileno(), data, offset)

    def read_volume(self, volume_id: str, offset: int, length: int) -> bytes:
        """Read up to `length` bytes from byte `offset`."""
        with open(self.volume_path(volume_id), "rb") as file:
            return os.pread(file.fileno(), length, offset)

    def capture(self, volume_id: str) -> dict[int, str]:
        """Keep the volume's non-zero blocks as they are now: block index to SHA-256 (hex)."""
        path = self.volume_path(volume_id)
        mark = _stamp(path)
        known = self._captures.get(volume_id)
        if known is not None and known[0] == mark and all(map(self.has_block, known[1].values())):
            return dict(known[1])
        blocks: dict[int, str] = {}
        with open(path, "rb") as file:
            for place in _data_places(file.fileno()):
                data = os.pread(file.fileno(), BLOCK_BYTES, place * BLOCK_BYTES)
                if data.strip(b"\0"):
                    blocks[place] = self.put_block(data.ljust(BLOCK_BYTES, b"\0"))
        # A file time has a grain of some milliseconds: only one that is surely over proves "unchanged".
        if mark[1] / 1e9 < self._wall() - _SETTLED_S:
            self._captures[volume_id] = (mark, dict(blocks))
        return blocks

    def hash_volume(self, volume_id: str) -> str:
        """One digest of all the volume's bytes, as `digest_of` forms it."""
        hashed: dict[int, str] = {}
        with open(self.volume_path(volume_id), "rb") as file:
            for place in _data_places(file.fileno()):
                data = os.pread(file.fileno(), BLOCK_BYTES, place * BLOCK_BYTES)
                hashed[place] = hashlib.sha256(data).hexdigest()
        return digest_of(hashed)

    def hash_snapshot(self, snapshot_id: str) -> str:
        """One digest of all the snapshot's bytes, read from the disk again; raises MissingBlock."""
        places = self.block_map(snapshot_id)
        hashed = {
            place: hashlib.sha256(self.get_block(digest)).hexdigest() for place, digest in places.items()
        }
        return digest_of(hashed)

    # -- saved points ---------------------------------------------------------------------------------

    def save(self, label: str) -> None:
        """Keep the whole state under `label`, replacing an older one of that name."""
        home = self._label_home(label)
        with self._lock:
            shutil.rmtree(home, ignore_errors=True)
            (home / "volumes").mkdir(parents=True)
            with contextlib.closing(sqlite3.connect(home / "rows.sqlite")) as copy:
                self._database.backup(copy)
            marks = {}
            for path in (self.directory / "volumes").iterdir():
                _copy_sparse(path, home / "volumes" / path.name)
                marks[path.name] = _age(path)
            (home / "marks.json").write_text(json.dumps(marks))

    def restore(self, label: str) -> None:
        """Put the state of `label` back; raises KeyError when there is none."""
        home = self._label_home(label)
        if not (home / "marks.json").exists():
            raise KeyError(label)
        with self._lock:
            self.roll_back()
            self._captures.clear()
            with contextlib.closing(sqlite3.connect(home / "rows.sqlite")) as copy:
                copy.backup(self._database)
            marks = json.loads((home / "marks.json").read_text())
            live = self.directory / "volumes"
            for path in live.iterdir():
                if path.name not in marks:
                    path.unlink()
            for name, mark in marks.items():
                path = live / name
                if not path.exists() or list(_stamp(path)) != mark:
                    _copy_sparse(home / "volumes" / name, path)
                    marks[name] = _age(path)
            (home / "marks.json").write_text(json.dumps(marks))

    def wipe(self) -> None:
        """Remove every row, map, block and volume; saved points stay readable only for their rows."""
        with self._lock:
            self.roll_back()
            self._captures.clear()
            self._database.executescript("BEGIN; DELETE FROM row; DELETE FROM block; COMMIT;")
            for part in ("blocks", "volumes", "labels"):
                shutil.rmtree(self.directory / part, ignore_errors=True)
                (self.directory / part).mkdir()

    def _label_home(self, label: str) -> Path:
        if not label or not all(sign.isalnum() or sign in "-_." for sign in label) or label[0] == ".":
            raise ValueError(f"a label has letters, digits, '-', '_' and '.', not {label!r}")
        return self.directory / "labels" / label


def _stamp(path: Path) -> tuple[int, int, int]:
    state = path.stat()
    return state.st_ino, state.st_mtime_ns, state.st_size


def _age(path: Path) -> tuple[int, int, int]:
    """Date the file back an hour, so that any later write shows in its time whatever the clock's grain."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - 3_600_000_000_000))
    return _stamp(path)


def _extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Start and end of each part of a sparse file that holds data."""
    size = os.fstat(descriptor).st_size
    start = 0
    while start < size:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError:
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
        start = end


def _data_places(descriptor: int) -> Iterator[int]:
    """Indices of the blocks that may hold data, ascending, each once."""
    last = -1
    for start, end in _extents(descriptor):
        for place in range(max(start // BLOCK_BYTES, last + 1), -(-end // BLOCK_BYTES)):
            yield place
            last = place


def _copy_sparse(source: Path, target: Path) -> None:
    """Copy a sparse file, holes kept, replacing `target` at once."""
    draft = target.with_name(f".{target.name}.draft")
    with open(source, "rb") as reader, open(draft, "wb") as writer:
        writer.truncate(os.fstat(reader.fileno()).st_size)
        for start, end in _extents(reader.fileno()):
            for place in range(start, end, 4 * BLOCK_BYTES):
                data = os.pread(reader.fileno(), min(4 * BLOCK_BYTES, end - place), place)
                os.pwrite(writer.fileno(), data, place)
    os.replace(draft, target)

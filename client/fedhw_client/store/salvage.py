"""What a damaged store still holds: rows carved out of its pages without SQLite's help.

Names and offsets are those of the SQLite file format, https://www.sqlite.org/fileformat2.html.
"""

import struct
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from fedhw_client.store.stored_sample import GLYPH_BYTES, StoredSample

PAGE = 4096
"""Bytes of a page in the store's database."""

# Pages of any size that SQLite knows, 512 to 65536, start at a multiple of the smallest.
_SMALLEST_PAGE, _LARGEST_PAGE = 512, 65536
_MOST_CELLS = _LARGEST_PAGE // GLYPH_BYTES
_LEAF = 0x0D
_COLUMNS = 8
_WAL_HEADER, _FRAME_HEADER = 32, 24
_WAL_WORD_ORDER = {0x377F0682: "<8I", 0x377F0683: ">8I"}
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}


def carve(database: Path) -> list[StoredSample]:
    """Return every row whose checksum holds in a database or its write-ahead log, by position.

    Reads the two files and needs nothing of them to be whole: not the header, not the schema,
    not the interior pages. Carve before SQLite opens the database, which may empty the log. Of
    rows at one position the one that was last written to the log is returned, and of rows with
    one id the one at the last position, so that a new store takes them all.

    A deleted row comes back as long as a page from before its deletion is left, in the database
    or in the log. So the store, with secure_delete on, truncates the log after forgetting. Rows
    that overflow their page are not found; a page of 1024 bytes or more holds a row. A log whose
    header is damaged is read whole, in pages of `PAGE` bytes.

    Raises OSError when a file cannot be read; one that does not exist is an empty one.
    """
    pages = _pages(_content(database))
    frames = _frames(_content(database.with_name(f"{database.name}-wal")))
    rows = {row.position: row for page in chain(pages, frames) for row in _rows(page)}
    by_id = {rows[position].id: rows[position] for position in sorted(rows)}
    return sorted(by_id.values())


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _pages(database: bytes) -> Iterator[memoryview]:
    """Whatever may be a page; the first, with its file header, holds the schema and no rows."""
    for start in range(0, len(database), _SMALLEST_PAGE):
        yield memoryview(database)[start : start + _LARGEST_PAGE]


def _frames(wal: bytes) -> Iterator[memoryview]:
    """The pages in a log, if its header can tell of its current run and committed (section 4.1)."""
    intact = _is_intact(wal[:_WAL_HEADER])
    size = int.from_bytes(wal[8:12]) if intact else PAGE
    uncommitted: list[memoryview] = []
    for start in range(_WAL_HEADER, len(wal), _FRAME_HEADER + size):
        if intact and wal[start + 8 : start + 16] != wal[16:24]:
            continue
        uncommitted.append(memoryview(wal)[start + _FRAME_HEADER :][:size])
        if not intact or any(wal[start + 4 : start + 8]):
            yield from uncommitted
            uncommitted.clear()


def _is_intact(header: bytes) -> bool:
    """Whether the header of a log has the checksum it says (section 4.2)."""
    order = _WAL_WORD_ORDER.get(int.from_bytes(header[:4]))
    if order is None or len(header) < _WAL_HEADER:
        return False
    words = struct.unpack(order, header)
    first = second = 0
    for i in (0, 2, 4):
        first = (first + words[i] + second) % 2**32
        second = (second + words[i + 1] + first) % 2**32
    return header[24:] == struct.pack(">2I", first, second)


def _rows(page: memoryview) -> Iterator[StoredSample]:
    """The rows of a leaf of a table (section 1.6); a cell that does not parse is passed over."""
    if page[0:1] != bytes([_LEAF]):
        return
    cells = min(int.from_bytes(page[3:5]), _MOST_CELLS)
    for pointer in range(8, 8 + 2 * cells, 2):
        try:
            row = _row(page, int.from_bytes(page[pointer : pointer + 2]))
        except (IndexError, ValueError, struct.error):
            continue
        if row is not None:
            yield row


def _row(page: memoryview, cell: int) -> StoredSample | None:
    """The row in a cell: payload size, rowid, then a record (section 2.1)."""
    _, cursor = _varint(page, cell)
    position, record = _varint(page, cursor)
    header, cursor = _varint(page, record)
    body = record + header
    values: list[int | float | str | bytes | None] = []
    for _ in range(_COLUMNS):
        serial, cursor = _varint(page, cursor)
        value, body = _value(page, serial, body)
        values.append(value)
    match values:
        # The position is the rowid, so its own column is NULL; a whole number of seconds is kept
        # as an integer though its column is REAL.
        case [None, str(id_), int() | float() as at, bytes(glyph), str(label), 0 | 1 as ge_right,
              0 | 1 as right, int(checksum)]:  # fmt: skip
            row = StoredSample(position, id_, float(at), glyph, label, bool(ge_right), bool(right))
            return row if row.checksum == checksum else None
    return None


def _value(
    page: memoryview, serial: int, start: int
) -> tuple[int | float | str | bytes | None, int]:
    """A column's value by its serial type, and the offset after it."""
    if serial == 0:
        return None, start
    if serial in _INTEGER_BYTES:
        end = start + _INTEGER_BYTES[serial]
        return serial - 8 if serial >= 8 else int.from_bytes(page[start:end], signed=True), end
    if serial == 7:
        return struct.unpack(">d", page[start : start + 8])[0], start + 8
    if serial in (10, 11):
        raise ValueError("a serial type that is reserved")
    end = start + (serial - 12) // 2
    content = bytes(page[start:end])
    return content.decode() if serial % 2 else content, end


def _varint(page: memoryview, start: int) -> tuple[int, int]:
    """A big-endian integer of 1 to 9 bytes, 7 bits each, the ninth 8, and the offset after it."""
    value = 0
    for cursor in range(start, start + 8):
        value = value << 7 | page[cursor] & 0x7F
        if page[cursor] < 0x80:
            return value, cursor + 1
    return value << 8 | page[start + 8], start + 9

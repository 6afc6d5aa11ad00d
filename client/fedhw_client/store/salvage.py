"""Salvage of a damaged store: rows are carved out of its pages without SQLite.

Names and offsets follow the SQLite file format, https://www.sqlite.org/fileformat2.html.
"""

import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from fedhw.observation import MAX_OBSERVATION_BYTES
from fedhw_client.store.sample_keys import SampleKeys
from fedhw_client.store.stored_sample import StoredSample

PAGE_BYTES = 4096
"""Bytes of a page in the store's database."""

# SQLite's pages have 512 to 65536 bytes, so each starts at a multiple of the smallest size.
_SMALLEST_PAGE, _LARGEST_PAGE = 512, 65536
_PAGE_SIZES = [2**n for n in range(9, 17)]
_MOST_CELLS = _LARGEST_PAGE // 16
# An upper bound for a row: observation, name and label.
_LARGEST_RECORD = 2 * MAX_OBSERVATION_BYTES
_LEAF, _NULL = 0x0D, 0
_MOST_COLUMNS = 8
_WAL_HEADER, _FRAME_HEADER = 32, 24
_WAL_WORD_ORDER = {0x377F0682: "<8I", 0x377F0683: ">8I"}
_INTEGER_BYTES = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 8: 0, 9: 0}


def carve(database: Path) -> list[StoredSample]:
    """Return the intact rows in a database and its write-ahead log, by position.

    A row is intact when it can be decrypted with the keys beside the database; in a store from
    before rows were encrypted, when its checksum is right.

    Any part of the two files may be damaged: the header, the schema, interior pages. Carve before
    SQLite opens the database, which may empty the log. Of several rows at one position the last
    one written to the log is returned, and of several with one id the one at the last position,
    so that a new store takes them all.

    A deleted row comes back as long as its key is there and a page from before its deletion is left
    in the database or in the log. A row that is larger than its page continues in overflow pages,
    which are read as they were when the row was written. A log with a damaged header is read whole,
    in pages of `PAGE_BYTES` bytes.

    Raises OSError when a file cannot be read; a missing file counts as empty.
    """
    content, keys = _content(database), SampleKeys(database)
    pages = _Pages(content, _page_size(content))
    rows: dict[int, StoredSample] = {}
    for page in _possible_pages(content):
        rows |= _unsealed(_rows(page, pages), keys)
    for transaction in _transactions(_content(database.with_name(f"{database.name}-wal"))):
        pages.write(transaction)
        for _, page in transaction:
            rows |= _unsealed(_rows(page, pages), keys)
    by_id = {rows[position].id: rows[position] for position in sorted(rows)}
    return sorted(by_id.values())


class _Sealed(NamedTuple):
    """An encrypted row, and the number of its key."""

    position: int
    key: int
    content: bytes


def _unsealed(rows: Iterable[StoredSample | _Sealed], keys: SampleKeys) -> dict[int, StoredSample]:
    """Return the rows that are plain or can be decrypted, by position."""
    found = {}
    for row in rows:
        plain = StoredSample.unseal(*row, keys) if isinstance(row, _Sealed) else row
        if plain is not None:
            found[row.position] = plain
    return found


class _Pages:
    """The pages of a database by number; pages written from its log replace them."""

    def __init__(self, database: bytes, size: int) -> None:
        self._database, self.size = memoryview(database), size
        self._written: dict[int, memoryview] = {}

    def write(self, pages: Iterable[tuple[int, memoryview]]) -> None:
        """Replace the pages of these numbers."""
        self._written.update(pages)

    def __getitem__(self, number: int) -> memoryview:
        """Return a page, an empty one where it is missing."""
        start = (number - 1) * self.size
        return self._written.get(number, self._database[start : start + self.size])


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _page_size(database: bytes) -> int:
    """Return the page size in the file header, `PAGE_BYTES` if it is invalid (section 1.3.2)."""
    size = int.from_bytes(database[16:18])
    size = _LARGEST_PAGE if size == 1 else size
    return size if size in _PAGE_SIZES else PAGE_BYTES


def _possible_pages(database: bytes) -> Iterator[memoryview]:
    """Yield every possible page; the first one, with the file header, has the schema, no rows."""
    for start in range(0, len(database), _SMALLEST_PAGE):
        yield memoryview(database)[start : start + _LARGEST_PAGE]


def _transactions(wal: bytes) -> Iterator[list[tuple[int, memoryview]]]:
    """Yield the pages of each transaction in a log, by number (section 4.1).

    With an intact header only committed frames with its salts count; otherwise all frames do, as
    one transaction.
    """
    intact = _is_intact(wal[:_WAL_HEADER])
    size = int.from_bytes(wal[8:12]) if intact else PAGE_BYTES
    uncommitted: list[tuple[int, memoryview]] = []
    for start in range(_WAL_HEADER, len(wal), _FRAME_HEADER + size):
        if intact and wal[start + 8 : start + 16] != wal[16:24]:
            continue
        page = memoryview(wal)[start + _FRAME_HEADER :][:size]
        uncommitted.append((int.from_bytes(wal[start : start + 4]), page))
        if intact and any(wal[start + 4 : start + 8]):
            yield uncommitted
            uncommitted = []
    if not intact:
        yield uncommitted


def _is_intact(header: bytes) -> bool:
    """Whether the checksum in a log's header is right (section 4.2)."""
    order = _WAL_WORD_ORDER.get(int.from_bytes(header[:4]))
    if order is None or len(header) < _WAL_HEADER:
        return False
    words = struct.unpack(order, header)
    first = second = 0
    for i in (0, 2, 4):
        first = (first + words[i] + second) % 2**32
        second = (second + words[i + 1] + first) % 2**32
    return header[24:] == struct.pack(">2I", first, second)


def _rows(page: memoryview, pages: _Pages) -> Iterator[StoredSample | _Sealed]:
    """Yield the rows of a table's leaf page (section 1.6); cells that do not parse are skipped."""
    if page[0:1] != bytes([_LEAF]):
        return
    cells = min(int.from_bytes(page[3:5]), _MOST_CELLS)
    for pointer in range(8, 8 + 2 * cells, 2):
        cell = int.from_bytes(page[pointer : pointer + 2])
        for payload in (_within, _overflowing):
            try:
                row = _row(*payload(page, cell, pages))
            except (IndexError, ValueError, struct.error):
                continue
            if row is not None:
                yield row


def _within(page: memoryview, cell: int, pages: _Pages) -> tuple[int, memoryview]:
    """Return the rowid and the record of a cell without overflow pages (section 1.6)."""
    size, cursor = _varint(page, cell)
    position, cursor = _varint(page, cursor)
    return position, page[cursor : cursor + size]


def _overflowing(page: memoryview, cell: int, pages: _Pages) -> tuple[int, memoryview]:
    """Return the rowid and the record of a cell with overflow pages (section 1.7)."""
    size, cursor = _varint(page, cell)
    position, cursor = _varint(page, cursor)
    fewest, most = (pages.size - 12) * 32 // 255 - 23, pages.size - 35
    if not most < size <= _LARGEST_RECORD:
        raise ValueError("a record that does not overflow")
    local = fewest + (size - fewest) % (pages.size - 4)
    end = cursor + (local if local <= most else fewest)
    record, following = bytearray(page[cursor:end]), page[end : end + 4]
    while len(record) < size:
        overflow = pages[int.from_bytes(following)]
        if len(overflow) <= 4:
            raise ValueError("a page that is not there")
        following = overflow[:4]
        record += overflow[4 : 4 + size - len(record)]
    return position, memoryview(record)


def _row(position: int, record: memoryview) -> StoredSample | _Sealed | None:
    """Return the row in a record, None where it is not one (section 2.1)."""
    header, cursor = _varint(record, 0)
    if record[cursor] != _NULL:  # the position is the rowid, so its own column is NULL
        return None
    body, values = header, list[int | float | str | bytes | None]()
    while cursor < header and len(values) < _MOST_COLUMNS:
        serial, cursor = _varint(record, cursor)
        value, body = _value(record, serial, body)
        values.append(value)
    match values:
        case [None, int(key), bytes(content)]:
            return _Sealed(position, key, content)
        # Before rows were encrypted. A whole number of seconds is kept as an integer though its
        # column is REAL.
        case [None, str(id_), int() | float() as at, bytes(content), str(label), 0 | 1 as ge_right,
              0 | 1 as right, int(checksum)]:  # fmt: skip
            row = StoredSample(
                position, id_, float(at), content, label, bool(ge_right), bool(right)
            )
            return row if row.checksum == checksum else None
    return None


def _value(
    page: memoryview, serial: int, start: int
) -> tuple[int | float | str | bytes | None, int]:
    """Return a column's value by its serial type, and the offset after it."""
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
    """Return a varint of 1 to 9 bytes, and the offset after it; the ninth byte has 8 bits."""
    value = 0
    for cursor in range(start, start + 8):
        value = value << 7 | page[cursor] & 0x7F
        if page[cursor] < 0x80:
            return value, cursor + 1
    return value << 8 | page[start + 8], start + 9

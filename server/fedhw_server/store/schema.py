"""The tables of a coordinator's database."""

MIGRATIONS = [
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    CREATE TABLE devices (
      name TEXT PRIMARY KEY,
      token BLOB NOT NULL, -- its SHA-256
      invited_at REAL NOT NULL,
      report_key BLOB,
      node_key TEXT UNIQUE,
      node INTEGER UNIQUE, -- as Flower knows it, signed
      enrolled_at REAL,
      revoked_at REAL,
      running TEXT, -- what the device says it runs
      offered INTEGER, -- the version that `adoption` speaks of
      adoption TEXT,
      refusal TEXT,
      answered_at REAL,
      seen_at REAL
    ) STRICT;
    CREATE TABLE rounds (
      number INTEGER PRIMARY KEY,
      version INTEGER NOT NULL,
      began REAL NOT NULL,
      seconds REAL, -- NULL while it runs, and for one that was abandoned
      asked INTEGER NOT NULL,
      answered INTEGER
    ) STRICT;
    CREATE TABLE reports (
      device TEXT NOT NULL,
      window INTEGER NOT NULL,
      digest TEXT NOT NULL, -- SHA-256 in hexadecimal
      PRIMARY KEY (window, device)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE sums (
      window INTEGER NOT NULL,
      release TEXT NOT NULL,
      reports INTEGER NOT NULL,
      content BLOB NOT NULL,
      PRIMARY KEY (window, release)
    ) STRICT, WITHOUT ROWID;
    """,
    """
    CREATE TABLE told (
      device TEXT NOT NULL,
      about ANY NOT NULL, -- a window or, as text, a candidate
      digest TEXT NOT NULL, -- SHA-256 in hexadecimal
      PRIMARY KEY (about, device)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO told SELECT device, window, digest FROM reports;
    DROP TABLE reports;
    ALTER TABLE told RENAME TO reports;
    CREATE TABLE summed (
      about ANY NOT NULL,
      release TEXT NOT NULL,
      reports INTEGER NOT NULL,
      content BLOB NOT NULL,
      PRIMARY KEY (about, release)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO summed SELECT window, release, reports, content FROM sums;
    DROP TABLE sums;
    ALTER TABLE summed RENAME TO sums;
    """,
    """
    CREATE TABLE attempts (
      number INTEGER PRIMARY KEY,
      parent INTEGER NOT NULL, -- the version that is to be improved
      plan TEXT NOT NULL, -- JSON
      stage TEXT NOT NULL,
      since REAL NOT NULL, -- when the stage began
      stopping INTEGER NOT NULL DEFAULT 0,
      candidate TEXT, -- its name
      version INTEGER, -- what it was published as
      step INTEGER NOT NULL DEFAULT 0, -- of the roll-out
      windows INTEGER NOT NULL DEFAULT 0, -- that the step was judged by
      window INTEGER NOT NULL DEFAULT 0 -- up to which there is nothing to judge it by
    ) STRICT;
    CREATE TABLE training_rounds (
      number INTEGER PRIMARY KEY,
      attempt INTEGER NOT NULL,
      began REAL NOT NULL,
      seconds REAL, -- NULL while it runs, and for one that was cut off
      rho REAL NOT NULL,
      devices TEXT NOT NULL, -- JSON: whom it has cost rho
      summed INTEGER, -- NULL for one that was abandoned
      within REAL
    ) STRICT;
    CREATE TABLE canaries (
      attempt INTEGER NOT NULL,
      device TEXT NOT NULL,
      state TEXT NOT NULL,
      PRIMARY KEY (attempt, device)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE decisions (
      number INTEGER PRIMARY KEY,
      attempt INTEGER, -- NULL where none was begun
      moment REAL NOT NULL,
      decision TEXT NOT NULL,
      reason TEXT NOT NULL
    ) STRICT;
    """,
    """
    ALTER TABLE attempts
      ADD COLUMN baseline TEXT NOT NULL DEFAULT '[]'; -- JSON: the fleet's figures before it
    """,
]
"""Each entry migrates the schema by one version, from an empty file on; never edit one."""

"""PostgreSQL: connections as Kong opens them, and the lock around migrations."""

import collections
import contextlib
import select
import time
import uuid

import psycopg2
from psycopg2 import extensions

from .errors import KongError


def reason(error):
    """What Kong prints of a failed connection or statement."""
    text = str(error).strip()
    if "FATAL:" in text:
        return "FATAL: " + text.split("FATAL:", 1)[1].strip().splitlines()[0]
    if "Connection refused" in text:
        return "connection refused"
    if "timeout" in text and "receive_message" not in text:
        return "timeout"
    if "could not translate host name" in text:
        return "[cosocket] DNS resolution failed: dns server error: 3 name error"
    first = text.splitlines()[0] if text else type(error).__name__
    return first if first.startswith(("ERROR:", "receive_message:")) or not isinstance(error, psycopg2.Error) else "ERROR: " + first


def connect(conf, timeout=None):
    """A new session, in autocommit. Raises psycopg2.Error."""
    seconds = max(1, round(timeout if timeout else int(conf["pg_timeout"]) / 1000))
    connection = psycopg2.connect(
        host=conf["pg_host"], port=conf["pg_port"], user=conf["pg_user"], password=conf["pg_password"],
        dbname=conf["pg_database"], connect_timeout=seconds, application_name="kong",
        sslmode="require" if conf["pg_ssl"] == "on" else "disable",
        # Kong does not look at libpq's own files.
        passfile="/dev/null", options="-c TimeZone=UTC")
    connection.autocommit = True
    if conf["pg_schema"]:
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('search_path', %s, false)", (conf["pg_schema"],))
    return connection


def give_up_after(seconds):
    """Makes this process leave a statement that takes longer, as Kong does: the server goes on with it."""
    def wait(connection):
        end = time.monotonic() + seconds
        while True:
            state = connection.poll()
            if state == extensions.POLL_OK:
                return
            left = end - time.monotonic()
            waiting = [connection.fileno()]
            ready = select.select(waiting if state == extensions.POLL_READ else [],
                                  waiting if state == extensions.POLL_WRITE else [], [], max(left, 0))
            if not any(ready):
                raise psycopg2.OperationalError("receive_message: failed to get type: timeout")
    extensions.set_wait_callback(wait)


def connect_or_die(conf, timeout=None):
    """For commands: a session, or Kong's error text."""
    try:
        return connect(conf, timeout)
    except psycopg2.Error as error:
        raise KongError("[PostgreSQL error] failed to retrieve PostgreSQL server_version_num: "
                        + reason(error)) from None


IDLE = collections.defaultdict(collections.deque)


def idle(key):
    """A session that was put by, and that the server has not ended meanwhile; or None."""
    with contextlib.suppress(IndexError):
        while True:
            connection = IDLE[key].pop()
            # The server says nothing unasked, but for that.
            if not select.select([connection.fileno()], [], [], 0)[0]:
                return connection
            connection.close()


@contextlib.contextmanager
def session(conf):
    """A session of a running node, which keeps it for the next one, as Kong does."""
    key = tuple(conf[name] for name in ("pg_host", "pg_port", "pg_user", "pg_password", "pg_database", "pg_ssl", "pg_schema"))
    connection = idle(key) or connect(conf)
    good = False
    try:
        yield connection
        good = connection.autocommit and not connection.closed
    finally:
        if good:
            IDLE[key].append(connection)
        else:
            connection.close()


def rows(connection, sql, values=()):
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        if cursor.description is None:
            return []
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]


def run(connection, sql, values=()):
    """Executes; the number of rows touched."""
    with connection.cursor() as cursor:
        cursor.execute(sql, values)
        return cursor.rowcount


def has_table(connection, table):
    return rows(connection, "SELECT to_regclass(%s) IS NOT NULL AS yes", (table,))[0]["yes"]


@contextlib.contextmanager
def migrations_lock(connection, ttl, wait):
    """Holds the row 'migrations' of table locks; yields False when another node has it and `wait` is false."""
    owner = str(uuid.uuid4())
    deadline = time.monotonic() + ttl
    while True:
        try:
            run(connection, "DELETE FROM locks WHERE ttl < CURRENT_TIMESTAMP")
            taken = run(connection, "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', %s, CURRENT_TIMESTAMP + "
                                    "make_interval(secs => %s)) ON CONFLICT DO NOTHING", (owner, ttl))
        except psycopg2.Error as error:
            raise KongError("[PostgreSQL error] failed to insert cluster lock: " + reason(error)) from None
        if taken:
            break
        if not wait:
            yield False
            return
        if time.monotonic() >= deadline:
            raise KongError("[PostgreSQL error] timeout")
        time.sleep(0.2)
    try:
        yield True
    finally:
        with contextlib.suppress(psycopg2.Error):
            run(connection, "DELETE FROM locks WHERE key = 'migrations' AND owner = %s", (owner,))

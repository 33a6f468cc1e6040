"""`kong migrations ...` and the check at `kong start`."""

import json
import sys
import time

import psycopg2

from . import db, migrations_data
from .errors import KongError

NEEDS_BOOTSTRAP = """Database needs bootstrapping or is older than Kong 1.0.

To start a new installation from scratch, run 'kong migrations bootstrap'.

To migrate from a version older than 1.0, migrated to Kong 1.5.0 first. 
If you still have 'apis' entities, you can convert them to Routes and Services
using the 'kong migrations migrate-apis' command in Kong 1.5.0.

"""
NOT_LEADER = "aborted: another node is performing database changes"
NEW_AVAILABLE = "New migrations available; run 'kong migrations up' to proceed"


class State:
    """What one version makes of schema_meta."""

    def __init__(self, connection, version):
        self.known = migrations_data.known(version.minor)
        self.needs_bootstrap = not db.has_table(connection, "schema_meta")
        done, waiting = {}, {}
        if not self.needs_bootstrap:
            for row in db.rows(connection, "SELECT subsystem, executed, pending FROM schema_meta"):
                done[row["subsystem"]] = set(row["executed"] or ())
                waiting[row["subsystem"]] = set(row["pending"] or ())
            self.needs_bootstrap = not done
        self.executed = [m for m in self.known if m[1] in done.get(m[0], ())]
        self.pending = [m for m in self.known if m[1] in waiting.get(m[0], ())]
        self.new = [m for m in self.known if m not in self.executed and m not in self.pending]


def grouped(migrations):
    groups = {}
    for subsystem, name, *_ in migrations:
        groups.setdefault(subsystem, []).append(name)
    return groups


def listing(migrations):
    """Right-aligned subsystems with their migrations, one a line."""
    groups = grouped(migrations)
    width = max(map(len, groups))
    return "\n".join(f"{subsystem:>{width}}: {', '.join(names)}" for subsystem, names in groups.items())


def get_state(connection, version):
    try:
        return State(connection, version)
    except psycopg2.Error as error:
        raise KongError("[PostgreSQL error] " + db.reason(error)) from None


def check_for_start(connection, version):
    """Refuses a database that lacks migrations; text to print when some are pending."""
    state = get_state(connection, version)
    if state.needs_bootstrap:
        raise KongError("./kong/cmd/utils/migrations.lua:16: " + NEEDS_BOOTSTRAP)
    if state.new:
        raise KongError("./kong/cmd/utils/migrations.lua:20: " + NEW_AVAILABLE)
    return "Database has pending migrations:\n" + listing(state.pending) if state.pending else ""


def namespace(subsystem):
    return "kong.db.migrations.core" if subsystem == "core" else f"kong.plugins.{subsystem}.migrations"


def print_status(state):
    def entries(migrations):
        return [{"subsystem": subsystem, "namespace": namespace(subsystem), "migrations": names}
                for subsystem, names in grouped(migrations).items()]
    out = {"needs_bootstrap": state.needs_bootstrap}
    for key, migrations in (("executed_migrations", state.executed), ("pending_migrations", state.pending),
                            ("new_migrations", state.new)):
        if migrations:
            out[key] = entries(migrations)
    print(json.dumps(out, separators=(",", ":")))


def print_list(state):
    """The exit code tells the state apart."""
    if state.needs_bootstrap:
        print(NEEDS_BOOTSTRAP)
        return 3
    if state.executed:
        print("Executed migrations:\n" + listing(state.executed))
    if state.pending:
        print("\nPending migrations:\n" + listing(state.pending))
    if state.new:
        print("\nNew migrations available:\n" + listing(state.new))
    if state.pending and state.new:
        print("\n\nRun 'kong migrations finish' when ready to complete pending migrations (postgres database will be "
              "incompatible with the previous Kong version)")
    elif state.pending:
        print("\nRun 'kong migrations finish' when ready")
    elif state.new:
        print("\nRun 'kong migrations up' to proceed")
    return 4 if state.pending else 5 if state.new else 0


def record(connection, subsystem, name, pending):
    if pending:
        db.run(connection, "INSERT INTO schema_meta (key, subsystem, pending) VALUES ('schema_meta', %s, ARRAY[%s]) "
               "ON CONFLICT (key, subsystem) DO UPDATE SET pending = array_append(schema_meta.pending, %s)",
               (subsystem, name, name))
        return
    db.run(connection, "INSERT INTO schema_meta (key, subsystem, last_executed, executed) VALUES ('schema_meta', %s, %s, "
           "ARRAY[%s]) ON CONFLICT (key, subsystem) DO UPDATE SET last_executed = EXCLUDED.last_executed, "
           "executed = CASE WHEN %s = ANY(schema_meta.executed) THEN schema_meta.executed "
           "ELSE array_append(coalesce(schema_meta.executed, '{}'), %s) END, "
           "pending = array_remove(schema_meta.pending, %s)", (subsystem, name, name, name, name, name))


def step(connection, what, name, sql):
    """Runs one half of a migration; Kong reports a failure with its stack, of which the first line matters."""
    try:
        if sql:
            with connection.cursor() as cursor:
                cursor.execute(sql)
    except psycopg2.Error as error:
        raise KongError("[PostgreSQL error] cluster_mutex callback threw an error: ./kong/cmd/utils/migrations.lua:104: "
                        f"[PostgreSQL error] failed to run migration '{name}' {what}: " + db.reason(error)) from None


def execute(connection, conf, migrations, up, teardown):
    """Runs migrations with their ups, teardowns or both, and prints what Kong prints."""
    executed = pending = 0
    current = None
    for subsystem, name, up_sql, teardown_sql in migrations:
        if subsystem != current:
            print(f"migrating {subsystem} on database '{conf['pg_database']}'...", flush=True)
            current = subsystem
        time.sleep(conf.seconds("standin_migration_delay"))
        if up:
            step(connection, "up", name, up_sql)
        if teardown and teardown_sql:
            step(connection, "teardown", name, teardown_sql)
        waits = bool(teardown_sql) and not teardown
        try:
            record(connection, subsystem, name, waits)
        except psycopg2.Error as error:
            raise KongError("[PostgreSQL error] cluster_mutex callback threw an error: "
                            f"./kong/cmd/utils/migrations.lua:104: [PostgreSQL error] failed to record migration '{name}': "
                            + db.reason(error)) from None
        executed, pending = executed + (not waits), pending + waits
        print(f"{subsystem} migrated up to: {name} ({'pending' if waits else 'executed'})", flush=True)
    total = executed + pending
    print(f"{total} migration{'' if total == 1 else 's'} processed")
    if executed:
        print(f"{executed} executed")
    if pending:
        print(f"{pending} pending")


def bootstrap(connection, conf, version, options):
    state = get_state(connection, version)
    if not state.needs_bootstrap:
        print("Database already bootstrapped")
        return 0
    print("Bootstrapping database...", flush=True)
    try:
        db.run(connection, "CREATE TABLE IF NOT EXISTS schema_meta (key text, subsystem text, last_executed text, "
               "executed text[], pending text[], PRIMARY KEY (key, subsystem)); "
               "CREATE TABLE IF NOT EXISTS locks (key text PRIMARY KEY, owner text, ttl timestamp with time zone)")
    except psycopg2.Error as error:
        raise KongError("[PostgreSQL error] " + db.reason(error)) from None
    with db.migrations_lock(connection, options.lock_timeout, wait=False) as held:
        if not held:
            print(NOT_LEADER)
            return 0
        execute(connection, conf, get_state(connection, version).new, up=True, teardown=True)
        print("Database is up-to-date")
    return 0


def run_up(connection, conf, version, options):
    if get_state(connection, version).needs_bootstrap:
        raise KongError("Cannot run migrations: " + NEEDS_BOOTSTRAP)
    with db.migrations_lock(connection, options.lock_timeout, wait=True):
        state = get_state(connection, version)
        if state.pending and not options.force:
            raise KongError("Database has pending migrations; run 'kong migrations finish'")
        if not state.new:
            if not options.force:
                print("Database is already up-to-date")
            return 0
        execute(connection, conf, state.new, up=True, teardown=False)
        if get_state(connection, version).pending:
            print("\nDatabase has pending migrations; run 'kong migrations finish' when ready")
    return 0


def run_finish(connection, conf, version, options):
    if get_state(connection, version).needs_bootstrap:
        raise KongError("Cannot run migrations: " + NEEDS_BOOTSTRAP)
    with db.migrations_lock(connection, options.lock_timeout, wait=False) as held:
        if not held:
            print(NOT_LEADER)
            return 0
        state = get_state(connection, version)
        if state.pending:
            execute(connection, conf, state.pending, up=False, teardown=True)
            state = get_state(connection, version)
        if state.new:
            print("\n" + NEW_AVAILABLE)
        elif not options.force:
            print("No pending migrations to finish")
    return 0


def command(conf, version, options):
    """`kong migrations COMMAND`; the exit code."""
    connection = db.connect_or_die(conf, options.db_timeout)
    try:
        db.give_up_after(options.db_timeout)
        if options.command == "status":
            print_status(get_state(connection, version))
            return 0
        if options.command == "list":
            return print_list(get_state(connection, version))
        run = {"bootstrap": bootstrap, "up": run_up, "finish": run_finish}[options.command]
        return run(connection, conf, version, options)
    finally:
        sys.stdout.flush()
        connection.close()

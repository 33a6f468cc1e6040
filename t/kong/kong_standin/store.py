"""Create, read, update, delete of entities in the database, with Kong's answers."""

import base64
import json
import uuid

import psycopg2
from psycopg2 import errors

from . import db, entities


class Answer(Exception):
    """An HTTP answer found on the way."""

    def __init__(self, status, body):
        super().__init__(status)
        self.status, self.body = status, body


NOT_FOUND = {"message": "Not found"}


def is_uuid(value):
    try:
        uuid.UUID(value)
        return len(value) == 36
    except ValueError:
        return False


def lua(value):
    """A key as Kong's messages show it."""
    return "{" + ",".join(f'{name}="{item}"' for name, item in value.items()) + "}"


def flatten(fields):
    """Kong's one-line summary of schema violations."""
    parts = []
    for name in sorted(fields):
        value = fields[name]
        if isinstance(value, dict):
            parts.append(f"{name}.{flatten(value)}")
        elif isinstance(value, list) and name == "@entity":
            parts.extend(value)
        else:
            parts.append(f"{name}: {value[0] if isinstance(value, list) else value}")
    return "; ".join(parts)


def violation(fields):
    count = len(fields)
    text = flatten(fields)
    message = f"schema violation ({text})" if count == 1 else f"{count} schema violations ({text})"
    return Answer(400, {"message": message, "name": "schema violation", "fields": fields, "code": 2})


class Store:
    """One session's view of the database, by one version of Kong."""

    def __init__(self, connection, version, plugins):
        self.connection, self.minor, self.plugins = connection, version.minor, plugins
        self.ws_id = None

    def workspace(self):
        if self.ws_id is None:
            found = db.rows(self.connection, "SELECT id FROM workspaces WHERE name = 'default'")
            self.ws_id = str(found[0]["id"]) if found else None
        return self.ws_id

    # --- reading

    def alive(self, entity):
        """Expired rows are gone for every reader."""
        return "(ttl IS NULL OR ttl > CURRENT_TIMESTAMP)" if "ttl" in entity.fields else "true"

    def page(self, entity, query, where=None, base=None):
        """One page: data, next and, when there is more, offset."""
        size = self.page_size(query)
        values, clauses = [], [self.alive(entity)]
        if where:
            clauses.append(f'"{where[0]}" = %s')
            values.append(where[1])
        if query.get("tags"):
            separator, operator = ("/", "&&") if "/" in query["tags"] else (",", "@>")
            clauses.append(f"tags {operator} %s::text[]")
            values.append(query["tags"].split(separator))
        if query.get("offset"):
            clauses.append("id > %s")
            values.append(self.offset(query["offset"]))
        sql = (f'SELECT {entities.columns_of(entity, self.minor)} FROM {entity.table} WHERE {" AND ".join(clauses)} '
               "ORDER BY id LIMIT %s")
        found = db.rows(self.connection, sql, (*values, size + 1))
        items = [entities.from_row(entity, self.minor, row) for row in found[:size]]
        return self.paged(items, len(found) > size, base or "/" + entity.path, query)

    @staticmethod
    def paged(items, more, base, query):
        if not more:
            return {"data": items, "next": None}
        token = base64.urlsafe_b64encode(json.dumps([items[-1]["id"]]).encode()).decode().rstrip("=")
        link = f"{base}?offset={token}"
        for name in ("size", "tags"):
            if query.get(name):
                link += f"&{name}={query[name]}"
        return {"data": items, "next": link, "offset": token}

    @staticmethod
    def page_size(query):
        text = query.get("size", "100")
        if not text.isdigit() or not 1 <= int(text) <= 1000:
            raise Answer(400, {"message": "invalid size (size must be an integer between 1 and 1000)",
                               "name": "invalid size", "code": 9})
        return int(text)

    @staticmethod
    def offset(text):
        try:
            value = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
            if is_uuid(value[0]):
                return value[0]
        except (ValueError, TypeError, IndexError, KeyError):
            pass
        raise Answer(400, {"message": f"'{text}' is not a valid offset: bad base64 encoding", "name": "invalid offset",
                           "code": 7})

    def row(self, entity, column, value):
        found = db.rows(self.connection, f"SELECT {entities.columns_of(entity, self.minor)} FROM {entity.table} "
                        f'WHERE "{column}" = %s AND {self.alive(entity)}', (value,))
        return entities.from_row(entity, self.minor, found[0]) if found else None

    def find(self, entity, key, parent=None):
        """The entity with this id or name, below its parent if there is one; or None."""
        item = self.row(entity, "id", key) if is_uuid(key) else None
        if item is None and entity.key:
            item = self.row(entity, entity.key, key)
        if item and parent and (item[parent[0]] or {}).get("id") != parent[1]:
            return None
        return item

    # --- writing

    def check(self, entity, body, partial=False):
        try:
            return entities.check(entity, self.minor, body, self.plugins, partial)
        except entities.Invalid as invalid:
            raise violation(invalid.fields) from None

    def checked(self, entity, body, partial=False):
        return self.resolved(entity, self.check(entity, body, partial))

    def resolved(self, entity, values):
        """References by name become references by id."""
        for name, target in entity.refs().items():
            given = values.get(name)
            if not given:
                continue
            other = entities.ENTITIES[target]
            key = given.get("id") or given.get("name") or given.get("username")
            item = self.find(other, str(key))
            if item is None:
                raise Answer(400, {"message": f"the foreign key '{lua(given)}' does not reference an existing '{target}' "
                                              "entity.", "name": "foreign key violation", "fields": {name: given}, "code": 4})
            values[name] = {"id": item["id"]}
        return values

    def columns(self, entity, values):
        """Column names, placeholders and values of a write."""
        names, marks, data = [], [], []
        for name, field in entity.fields_of(self.minor).items():
            if name not in values:
                continue
            names.append(field.column(name))
            if field.kind == "ttl":
                marks.append("CURRENT_TIMESTAMP + make_interval(secs => %s)")
            else:
                marks.append("%s" + field.cast())
            data.append(entities.to_column(field, values[name]))
        if entity.table == "plugins":
            parts = [(values.get(ref) or {}).get("id", "") for ref in ("route", "service", "consumer")]
            names.append("cache_key")
            marks.append("%s")
            data.append(":".join(["plugins", values["name"], *parts, "", "", self.workspace() or ""]))
        return names, marks, data

    def insert(self, entity, values):
        values.setdefault("id", str(uuid.uuid4()))
        names, marks, data = self.columns(entity, values)
        names += ["id", "created_at"]
        marks += ["%s", "CURRENT_TIMESTAMP"]
        data.append(values["id"])
        if entity.has_workspace:
            names.append("ws_id")
            marks.append("%s")
            data.append(self.workspace())
        if entity.has_updated_at(self.minor):
            names.append("updated_at")
            marks.append("CURRENT_TIMESTAMP")
        columns = ", ".join(f'"{name}"' for name in names)
        self.write(entity, values, f"INSERT INTO {entity.table} ({columns}) VALUES ({', '.join(marks)})", data)
        return self.row(entity, "id", values["id"])

    def update(self, entity, item_id, values):
        names, marks, data = self.columns(entity, values)
        if entity.has_updated_at(self.minor):
            names.append("updated_at")
            marks.append("CURRENT_TIMESTAMP")
        sets = ", ".join(f'"{name}" = {mark}' for name, mark in zip(names, marks))
        self.write(entity, values, f"UPDATE {entity.table} SET {sets} WHERE id = %s", [*data, item_id])
        return self.row(entity, "id", item_id)

    def write(self, entity, values, sql, data):
        try:
            db.run(self.connection, sql, data)
        except errors.UniqueViolation as error:
            raise self.unique(entity, values, error) from None
        except errors.ForeignKeyViolation:
            raise Answer(400, {"message": "the foreign key does not reference an existing entity.",
                               "name": "foreign key violation", "fields": {}, "code": 4}) from None

    def unique(self, entity, values, error):
        constraint = error.diag.constraint_name or ""
        fields = {}
        if constraint.endswith("_pkey"):
            fields = {"id": values.get("id")}
            return Answer(409, {"message": f"primary key violation on key '{lua(fields)}'", "name":
                                "primary key violation", "fields": fields, "code": 3})
        if "cache_key" in constraint:
            fields = {name: values[name] for name in ("name", "service", "route", "consumer") if values.get(name)}
        else:
            for name in entity.fields:
                if f"_{name}_key" in constraint:
                    fields[name] = values.get(name)
        return Answer(409, {"message": f"UNIQUE violation detected on '{lua(fields)}'", "name":
                            "unique constraint violation", "fields": fields, "code": 5})

    def create(self, entity, body):
        return self.insert(entity, self.checked(entity, body))

    def patch(self, entity, item, body):
        """Merges into what is there, so that rules over the whole entity hold."""
        given = self.checked(entity, body, partial=True)
        merged = {name: item[name] for name in entity.fields_of(self.minor) if name != "ttl"}
        for name, value in given.items():
            if name == "config" and isinstance(value, dict):
                value = {**(item["config"] or {}), **value}
            merged[name] = value
        values = self.checked(entity, {name: value for name, value in merged.items() if value is not None})
        if "ttl" in entity.fields and "ttl" not in given:
            values.pop("ttl", None)
        return self.update(entity, item["id"], values)

    def put(self, entity, key, body, parent=None):
        """Replaces or creates by id or name."""
        item = self.find(entity, key, parent)
        body = dict(body)
        if is_uuid(key):
            body["id"] = key
        elif entity.key:
            body.setdefault(entity.key, key)
        else:
            raise Answer(400, {"message": "must be a valid UUID", "name": "invalid primary key", "code": 1})
        values = self.checked(entity, body)
        if item is None:
            return self.insert(entity, values)
        return self.update(entity, item["id"], values)

    def delete(self, entity, item):
        try:
            db.run(self.connection, f"DELETE FROM {entity.table} WHERE id = %s", (item["id"],))
        except errors.ForeignKeyViolation as error:
            by = error.diag.table_name
            raise Answer(400, {"message": f"an existing '{by}' entity references this '{entity.table}' entity",
                               "name": "foreign key violation", "fields": {"@referenced_by": by}, "code": 4}) from None

    # --- the whole

    def export(self):
        """All configuration, as data planes and db_export get it."""
        whole = {}
        for name, entity in entities.ENTITIES.items():
            if self.minor < entity.since:
                continue
            found = db.rows(self.connection, f"SELECT {entities.columns_of(entity, self.minor)} FROM {entity.table} "
                            f"WHERE {self.alive(entity)} ORDER BY id")
            items = [entities.from_row(entity, self.minor, row) for row in found]
            for item in items:
                item.pop("ttl", None)
            if items:
                whole[name.replace("-", "_")] = items
        return whole

    def used_plugins(self):
        return [row["name"] for row in db.rows(self.connection, "SELECT DISTINCT name FROM plugins ORDER BY name")]


def reachable(conf):
    try:
        db.connect(conf).close()
        return True
    except psycopg2.Error:
        return False

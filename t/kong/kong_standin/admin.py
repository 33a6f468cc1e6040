"""The Admin API: which request does what. Runs in a thread, one database session per request."""

import json
import os
import platform
import re
import urllib.parse

import psycopg2

from . import db, entities
from .store import NOT_FOUND, Answer, Store, reachable

NOT_HYBRID = {"message": "this endpoint is only available when Kong is configured to run as Control Plane for the cluster"}
WRITES = ("POST", "PUT", "PATCH", "DELETE")


class Request:
    """What the handlers need of a request."""

    def __init__(self, method, path, query, content_type, body):
        self.method, self.query = method, query
        self.parts = [urllib.parse.unquote(part) for part in path.split("/") if part]
        self.content_type, self.body = content_type, body


def decode_body(request, entity):
    """JSON or a form, as curl -d sends it."""
    if not request.body:
        return {}
    if "json" in request.content_type:
        try:
            body = json.loads(request.body)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Answer(400, {"message": "Cannot parse JSON body"})
        return body
    if "x-www-form-urlencoded" in request.content_type or not request.content_type:
        return decode_form(request.body.decode("utf-8", "replace"), entity)
    raise Answer(415, {"message": "Unsupported Media Type"})


def decode_form(text, entity):
    body = {}
    for key, value in urllib.parse.parse_qsl(text, keep_blank_values=True):
        array = re.fullmatch(r"(.+?)\[\d*\]", key)
        path = (array[1] if array else key).split(".")
        place = body
        for part in path[:-1]:
            place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise Answer(400, {"message": "Cannot parse form body"})
        name = path[-1]
        field = entity.fields.get(name) if entity and len(path) == 1 else None
        if array:
            place.setdefault(name, []).append(value)
        elif field is not None:
            place[name] = form_value(field, value)
        else:
            place[name] = guess(value)
    if entity and entity.table == "plugins":
        schema = entities.plugin_schema(body.get("name", ""), (99, 0)) or {}
        config = body.get("config")
        for name in config if isinstance(config, dict) else ():
            if isinstance(schema.get(name), list) and isinstance(config[name], str):
                config[name] = config[name].split(",")
    return body


def form_value(field, value):
    if value == "" and field.kind != "text":
        return None
    if field.kind in ("texts", "uuids"):
        return value.split(",")
    if field.kind in ("int", "bool", "ttl"):
        return guess(value)
    return value


def guess(value):
    if value in ("true", "false"):
        return value == "true"
    if re.fullmatch(r"-?\d{1,15}", value):
        return int(value)
    return value


class Admin:
    """Answers (status, body, headers) to requests; None as body means an empty one."""

    def __init__(self, node):
        self.node = node
        self.version = node.version

    def handle(self, request):
        """Returns (status, body, headers, wrote)."""
        try:
            status, body, headers = self.answer(request)
        except Answer as answer:
            return answer.status, answer.body, {}, False
        except psycopg2.OperationalError as error:
            what = "happened" if not request.parts else "occurred"
            self.node.log("error", f"[kong] api_helpers.lua:370 {db.reason(error)}")
            return 500, {"message": "An unexpected error " + what}, {}, False
        except psycopg2.Error as error:
            self.node.log("error", f"[kong] api_helpers.lua:370 {db.reason(error)}, server: kong_admin, "
                          f"request: \"{request.method} /{'/'.join(request.parts)} HTTP/1.1\"")
            return 500, {"message": "An unexpected error occurred"}, {}, False
        wrote = request.method in WRITES and status in (200, 201, 204) and request.parts[:1] != ["schemas"]
        return status, body, headers, wrote

    def answer(self, request):
        parts, method = request.parts, request.method
        if method == "OPTIONS":
            return 204, None, {"Allow": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
                               "Access-Control-Allow-Methods": "GET,HEAD,PUT,PATCH,POST,DELETE",
                               "Access-Control-Allow-Headers": "Content-Type"}
        if method not in ("GET", "HEAD", *WRITES):
            raise Answer(405, {"message": "Method not allowed"})
        if parts[:1] == ["status"] and len(parts) == 1:
            return 200, self.node.status_body(reachable(self.node.conf)), {}
        if parts == ["config"]:
            raise Answer(400, {"message": "this endpoint is only available when Kong is configured to not use a database"})
        if parts[:1] == ["schemas"]:
            return self.schemas(request)
        with db.session(self.node.conf) as connection:
            store = Store(connection, self.version, self.node.plugins)
            if not parts:
                self.only(method, "GET", "HEAD")
                return 200, self.root(store), {}
            if parts[0] == "clustering":
                return self.clustering(store, request)
            if parts == ["plugins", "enabled"]:
                self.only(method, "GET", "HEAD")
                return 200, {"enabled_plugins": sorted(self.node.plugins)}, {}
            return self.collection(store, request)

    @staticmethod
    def only(method, *allowed):
        if method not in allowed:
            raise Answer(405, {"message": "Method not allowed"})

    # --- entities

    def collection(self, store, request):
        """/E, /E/k, /P/p/E, /P/p/E/k and /E/k/REF."""
        parts = request.parts
        entity = entities.BY_PATH.get(parts[0])
        if entity is None or self.version.minor < entity.since or len(parts) > 4:
            raise Answer(404, NOT_FOUND)
        if len(parts) == 1:
            return self.many(store, request, entity)
        if len(parts) == 2:
            return self.one(store, request, entity, parts[1])
        item = store.find(entity, parts[1])
        if item is None:
            raise Answer(404, NOT_FOUND)
        if len(parts) == 3 and parts[2] in entity.refs():
            reference = item[parts[2]]
            if not reference:
                raise Answer(404, NOT_FOUND)
            return self.one(store, request, entities.ENTITIES[entity.refs()[parts[2]]], reference["id"])
        for child in entities.ENTITIES.values():
            for name, target in child.refs().items():
                if target == entity.table and parts[2] in (child.path, child.child_path):
                    parent = (name, item["id"])
                    if len(parts) == 3:
                        return self.many(store, request, child, parent, "/" + "/".join(parts))
                    return self.one(store, request, child, parts[3], parent)
        raise Answer(404, NOT_FOUND)

    def many(self, store, request, entity, parent=None, base=None):
        self.only(request.method, "GET", "HEAD", "POST")
        if request.method == "POST":
            body = decode_body(request, entity)
            if parent:
                body[parent[0]] = {"id": parent[1]}
            return 201, store.create(entity, body), {}
        where = (parent[0] + "_id", parent[1]) if parent else None
        return 200, store.page(entity, request.query, where, base), {}

    def one(self, store, request, entity, key, parent=None):
        if request.method == "POST":
            raise Answer(405, {"message": "Method not allowed"})
        if request.method == "PUT":
            body = decode_body(request, entity)
            if parent:
                body[parent[0]] = {"id": parent[1]}
            return 200, store.put(entity, key, body, parent), {}
        item = store.find(entity, key, parent)
        if item is None:
            # Deleting what is not there is fine, and no write.
            raise Answer(204, None) if request.method == "DELETE" else Answer(404, NOT_FOUND)
        if request.method == "DELETE":
            store.delete(entity, item)
            return 204, None, {}
        if request.method == "PATCH":
            return 200, store.patch(entity, item, decode_body(request, entity)), {}
        return 200, item, {}

    def schemas(self, request):
        """Needs no database: what an entity refers to is not looked up."""
        parts = request.parts
        if len(parts) == 3 and parts[2] == "validate":
            self.only(request.method, "POST")
            entity = entities.BY_PATH.get(parts[1]) or entities.ENTITIES.get(parts[1])
            if entity is None or self.version.minor < entity.since:
                raise Answer(404, {"message": f"No entity named '{parts[1]}'"})
            Store(None, self.version, self.node.plugins).check(entity, decode_body(request, entity))
            return 200, {"message": "schema validation successful"}, {}
        self.only(request.method, "GET", "HEAD")
        if len(parts) == 3 and parts[1] == "plugins":
            if parts[2] not in self.node.plugins:
                raise Answer(404, {"message": f"No plugin named '{parts[2]}'"})
            fields = entities.plugin_schema(parts[2], self.version.minor) or {}
            return 200, {"fields": [{"config": {"type": "record", "fields": [{name: {}} for name in fields]}}]}, {}
        entity = entities.BY_PATH.get(parts[1]) or entities.ENTITIES.get(parts[1]) if len(parts) == 2 else None
        if entity is None:
            raise Answer(404, NOT_FOUND)
        return 200, {"fields": [{name: {"required": field.required}} for name, field in entity.fields.items()]}, {}

    # --- the node

    def clustering(self, store, request):
        if request.parts[1:] not in (["data-planes"], ["data_planes"], ["status"]):
            raise Answer(404, NOT_FOUND)
        if self.node.conf["role"] != "control_plane":
            raise Answer(400, NOT_HYBRID)
        self.only(request.method, "GET", "HEAD")
        if request.parts[1] == "status":
            found = {item["id"]: {key: item[key] for key in ("config_hash", "hostname", "ip", "last_seen")}
                     for item in data_planes(store)}
            return 200, found, {"Deprecation": "true"}
        size = store.page_size(request.query)
        after = store.offset(request.query["offset"]) if request.query.get("offset") else None
        items = data_planes(store, after, size + 1)
        return 200, store.paged(items[:size], len(items) > size, "/clustering/data-planes", request.query), {}

    def root(self, store):
        node, minor = self.node, self.version.minor
        available = {name: True if minor < (3, 0) else {"version": version, "priority": priority}
                     for name, (version, priority) in sorted(node.installed.items())}
        body = {"version": self.version.text, "hostname": platform.node(), "node_id": node.node_id,
                "tagline": "Welcome to kong", "lua_version": "LuaJIT 2.1.0-beta3" if minor < (3, 6) else
                "LuaJIT 2.1.1700206165", "pids": {"master": os.getpid(), "workers": [os.getpid()]},
                "timers": {"pending": 1, "running": 266},
                "plugins": {"enabled_in_cluster": store.used_plugins(), "available_on_server": available},
                "configuration": configuration(node)}
        if self.version.has(3, 6):
            body["edition"] = "community"
        return body


def configuration(node):
    """The settings as GET / shows them: secrets masked, numbers and switches as such, lists as lists."""
    shown = {}
    for name, value in node.conf.items():
        if name.startswith("standin_"):
            continue
        if name.endswith("_listen"):
            shown[name] = node.conf.array(name) or ["off"]
        elif name in ("plugins", "headers", "vaults"):
            shown[name] = node.conf.array(name)
        elif name in ("pg_password", "cluster_cert_key", "ssl_cert_key", "admin_ssl_cert_key"):
            shown[name] = "******" if value else None
        elif re.fullmatch(r"\d+", value):
            shown[name] = int(value)
        elif value in ("on", "off") and name not in ("database", "nginx_daemon"):
            shown[name] = value == "on"
        elif value:
            shown[name] = value
    shown["loaded_plugins"] = {name: True for name in sorted(node.plugins)}
    if node.version.has(3, 0):
        shown["lmdb_environment_path"] = "dbless.lmdb"
    if node.version.has(3, 6):
        shown["lmdb_validation_tag"] = node.version.tag
    shown["kong_env"] = node.conf.env_file
    shown["nginx_pid"] = node.conf.pid_file
    return {name: value for name, value in sorted(shown.items()) if value is not None}


def data_planes(store, after=None, limit=None):
    """Rows of clustering_data_planes as the Admin API shows them, expired ones left out."""
    minor = store.minor
    columns = ["id", "hostname", "ip", "config_hash", "sync_status", "version",
               "extract(epoch FROM last_seen)::bigint AS last_seen",
               "extract(epoch FROM ttl - CURRENT_TIMESTAMP)::bigint AS ttl"]
    if minor >= (3, 3):
        columns.append("extract(epoch FROM updated_at)::bigint AS updated_at")
    if minor >= (3, 5):
        columns.append("coalesce(labels, '{}') AS labels")
    if minor >= (3, 6):
        columns.append("cert_details")
    if minor >= (3, 7):
        columns.append("coalesce(rpc_capabilities, '{}') AS rpc_capabilities")
    sql = (f"SELECT {', '.join(columns)} FROM clustering_data_planes "
           "WHERE (clustering_data_planes.ttl IS NULL OR clustering_data_planes.ttl > CURRENT_TIMESTAMP)"
           + (" AND id > %s" if after else "") + " ORDER BY id" + (" LIMIT %s" if limit else ""))
    found = db.rows(store.connection, sql, [value for value in (after, limit) if value])
    return [{**row, "id": str(row["id"])} for row in found]

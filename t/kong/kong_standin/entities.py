"""What the Admin API serves: entities, their fields and the tables behind them."""

import json
import re
import secrets
import uuid

import psycopg2.extras

HTTP = ["http", "https"]
PLUGIN_PROTOCOLS = ["grpc", "grpcs", "http", "https"]
PLAIN_PATH = re.compile(r"[A-Za-z0-9._~/%!$&'()*+,;=:@-]*")


class Invalid(Exception):
    """A body the schema refuses: {field: text}."""

    def __init__(self, fields):
        super().__init__("invalid")
        self.fields = fields


class Field:
    """kind: text int bool uuid texts uuids json jsons ref ttl. A ref's column is NAME_id."""

    def __init__(self, kind, default=None, required=False, ref=None, since=(2, 8)):
        self.kind, self.default, self.required, self.ref, self.since = kind, default, required, ref, since

    def column(self, name):
        return name + "_id" if self.kind == "ref" else name

    def cast(self):
        return {"json": "::jsonb", "jsons": "::jsonb[]", "uuids": "::uuid[]", "texts": "::text[]"}.get(self.kind, "")

    def default_value(self):
        return self.default() if callable(self.default) else self.default


class Entity:
    """A collection: its path, its table, the unique field that may stand for the id, its fields."""

    def __init__(self, path, table, key, fields, **more):
        self.path, self.table, self.key, self.fields = path, table, key, fields
        self.since = more.get("since", (2, 8))
        self.updated_since = more.get("updated_since", (3, 3))
        self.has_workspace = more.get("workspace", True)
        self.child_path = more.get("child_path", path)
        self.name = more.get("name", table)

    def fields_of(self, minor):
        return {name: field for name, field in self.fields.items() if minor >= field.since}

    def has_updated_at(self, minor):
        return self.updated_since is not None and minor >= self.updated_since

    def refs(self):
        return {name: field.ref for name, field in self.fields.items() if field.kind == "ref"}


def text(default=None, **more):
    return Field("text", default, **more)


def ref(entity, **more):
    return Field("ref", ref=entity, **more)


def number(default=None, **more):
    return Field("int", default, **more)


def flag(default=None, **more):
    return Field("bool", default, **more)


TAGS = Field("texts")
HEALTHCHECKS = {"threshold": 0, "active": {"type": "http", "timeout": 1, "concurrency": 10, "http_path": "/",
                                           "healthy": {"interval": 0, "successes": 0},
                                           "unhealthy": {"interval": 0, "http_failures": 0, "tcp_failures": 0}},
                "passive": {"type": "http", "healthy": {"successes": 0},
                            "unhealthy": {"http_failures": 0, "tcp_failures": 0, "timeouts": 0}}}

ENTITIES = {entity.name: entity for entity in (
    Entity("certificates", "certificates", None, {
        "cert": text(required=True), "key": text(required=True), "cert_alt": text(), "key_alt": text(), "tags": TAGS}),
    Entity("ca_certificates", "ca_certificates", None, {
        "cert": text(required=True), "cert_digest": text(), "tags": TAGS}, workspace=False),
    Entity("snis", "snis", "name", {
        "name": text(required=True), "certificate": ref("certificates", required=True), "tags": TAGS}),
    Entity("services", "services", "name", {
        "name": text(), "retries": number(5), "protocol": text("http"), "host": text(required=True), "port": number(80),
        "path": text(), "connect_timeout": number(60000), "write_timeout": number(60000), "read_timeout": number(60000),
        "tags": TAGS, "client_certificate": ref("certificates"), "tls_verify": flag(), "tls_verify_depth": number(),
        "ca_certificates": Field("uuids"), "enabled": flag(True)}, updated_since=(2, 8)),
    Entity("routes", "routes", "name", {
        "name": text(), "service": ref("services"), "protocols": Field("texts", lambda: list(HTTP)),
        "methods": Field("texts"), "hosts": Field("texts"), "paths": Field("texts"), "snis": Field("texts"),
        "headers": Field("json"), "sources": Field("jsons"), "destinations": Field("jsons"),
        "regex_priority": number(0), "strip_path": flag(True), "preserve_host": flag(False), "tags": TAGS,
        "https_redirect_status_code": number(426), "path_handling": text("v0"), "request_buffering": flag(True),
        "response_buffering": flag(True)}, updated_since=(2, 8)),
    Entity("consumers", "consumers", "username", {"username": text(), "custom_id": text(), "tags": TAGS}),
    Entity("plugins", "plugins", None, {
        "name": text(required=True), "service": ref("services"), "route": ref("routes"), "consumer": ref("consumers"),
        "config": Field("json", dict), "enabled": flag(True), "protocols": Field("texts", lambda: list(PLUGIN_PROTOCOLS)),
        "tags": TAGS, "instance_name": text(since=(3, 2))}),
    Entity("upstreams", "upstreams", "name", {
        "name": text(required=True), "algorithm": text("round-robin"), "hash_on": text("none"),
        "hash_fallback": text("none"), "hash_on_header": text(), "hash_fallback_header": text(), "hash_on_cookie": text(),
        "hash_on_cookie_path": text("/"), "slots": number(10000),
        "healthchecks": Field("json", lambda: json.loads(json.dumps(HEALTHCHECKS))), "tags": TAGS, "host_header": text(),
        "client_certificate": ref("certificates"), "use_srv_name": flag(False, since=(3, 4))}),
    Entity("targets", "targets", "target", {
        "upstream": ref("upstreams", required=True), "target": text(required=True), "weight": number(100), "tags": TAGS}),
    Entity("key-auths", "keyauth_credentials", "key", {
        "consumer": ref("consumers", required=True), "key": text(lambda: secrets.token_urlsafe(24)), "tags": TAGS,
        "ttl": Field("ttl")}, updated_since=None, child_path="key-auth"),
    Entity("basic-auths", "basicauth_credentials", "username", {
        "consumer": ref("consumers", required=True), "username": text(required=True), "password": text(required=True),
        "tags": TAGS}, updated_since=None, child_path="basic-auth"),
    Entity("hmac-auths", "hmacauth_secrets", "username", {
        "consumer": ref("consumers", required=True), "username": text(required=True),
        "secret": text(lambda: secrets.token_urlsafe(24)), "tags": TAGS}, updated_since=None, child_path="hmac-auth",
        name="hmacauth_credentials"),
    Entity("jwts", "jwt_secrets", "key", {
        "consumer": ref("consumers", required=True), "key": text(lambda: secrets.token_urlsafe(24)),
        "secret": text(lambda: secrets.token_urlsafe(24)), "algorithm": text("HS256"), "rsa_public_key": text(),
        "tags": TAGS}, updated_since=None, child_path="jwt"),
    Entity("acls", "acls", None, {
        "consumer": ref("consumers", required=True), "group": text(required=True), "tags": TAGS}, updated_since=None),
    Entity("vaults", "sm_vaults", "prefix", {
        "prefix": text(required=True), "name": text(required=True), "description": text(), "config": Field("json", dict),
        "tags": TAGS}, since=(3, 0), updated_since=(3, 0), name="vaults"),
    Entity("key-sets", "key_sets", "name", {"name": text(), "tags": TAGS}, since=(3, 3)),
    Entity("keys", "keys", "name", {
        "set": ref("key_sets"), "name": text(), "kid": text(required=True), "jwk": text(), "pem": Field("json"),
        "tags": TAGS}, since=(3, 3)),
)}

BY_PATH = {entity.path: entity for entity in ENTITIES.values()}


# --- configuration of the plugins the stand-in knows; anything else goes through as it is


def redis_fields(prefix=""):
    return {prefix + "host": None, prefix + "port": 6379, prefix + "timeout": 2000, prefix + "username": None,
            prefix + "password": None, prefix + "database": 0, prefix + "ssl": False, prefix + "ssl_verify": False,
            prefix + "server_name": None}


def plugin_schema(name, minor):
    """Defaults of a known plugin's fields, or None."""
    if name == "key-auth":
        fields = {"key_names": ["apikey"], "hide_credentials": False, "anonymous": None, "key_in_header": True,
                  "key_in_query": True, "key_in_body": False, "run_on_preflight": True}
        if minor >= (3, 7):
            fields["realm"] = None
        return fields
    if name == "request-termination":
        return {"status_code": 503, "message": None, "content_type": None, "body": None, "echo": False, "trigger": None}
    if name == "rate-limiting":
        fields = {"second": None, "minute": None, "hour": None, "day": None, "month": None, "year": None,
                  "limit_by": "consumer", "policy": "local", "fault_tolerant": True, "hide_client_headers": False,
                  "header_name": None, "path": None}
        if minor >= (3, 0):
            fields.update(error_code=429, error_message="API rate limit exceeded")
        if minor >= (3, 4):
            fields["sync_rate"] = -1
        if minor >= (3, 6):
            fields["redis"] = redis_fields()
        else:
            fields.update(redis_fields("redis_"))
        return fields
    return None


def plugin_defaults(name, minor, config):
    """A plugin's configuration as a version reads it from the database: its own fields, defaults filled in."""
    schema = plugin_schema(name, minor)
    if schema is None:
        return config
    full = {field: config.get(field, default) for field, default in schema.items()}
    if "redis" in schema and not isinstance(full["redis"], dict):
        full["redis"] = schema["redis"]
    return full


def check_plugin(name, minor, config, problems):
    """Completes the configuration of a known plugin; unknown fields and bad values go to `problems`."""
    schema = plugin_schema(name, minor)
    if schema is None:
        return config
    bad = {}
    config = dict(config)
    if "redis" in schema:
        # 3.6 and later take the old names still.
        short = {key[6:]: config.pop(key) for key in list(config) if key.startswith("redis_")}
        config["redis"] = {**schema["redis"], **(config.get("redis") or {}), **short}
    for field, value in config.items():
        if field not in schema:
            bad[field] = "unknown field"
        elif value is not None and isinstance(schema[field], bool) and not isinstance(value, bool):
            bad[field] = "expected a boolean"
        elif value is not None and isinstance(schema[field], list) and not isinstance(value, list):
            bad[field] = "expected an array"
    full = {field: config.get(field, default) for field, default in schema.items()}
    if name == "rate-limiting":
        periods = ("second", "minute", "hour", "day", "month", "year")
        for period in periods:
            if full[period] is not None and (not isinstance(full[period], (int, float)) or full[period] <= 0):
                bad[period] = "value must be greater than 0"
        if not any(full[period] for period in periods):
            problems["@entity"] = ["at least one of these fields must be non-empty: 'config.second', 'config.minute', "
                                   "'config.hour', 'config.day', 'config.month', 'config.year'"]
    if name == "request-termination" and full["status_code"] not in range(100, 600):
        bad["status_code"] = "value should be between 100 and 599"
    if bad:
        problems["config"] = bad
    return full


# --- checks of a body


def check_value(field, value):
    """The value in its kind, or a ValueError with Kong's text."""
    kind = field.kind
    if kind in ("int", "ttl"):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise ValueError("expected an integer")
        return int(value)
    if kind == "bool":
        if not isinstance(value, bool):
            raise ValueError("expected a boolean")
    elif kind == "text":
        if not isinstance(value, str):
            raise ValueError("expected a string")
        if value == "":
            raise ValueError("length must be at least 1")
    elif kind == "texts":
        if not isinstance(value, list):
            raise ValueError("expected a set")
        if not all(isinstance(item, str) for item in value):
            raise ValueError("expected a string")
    elif kind in ("uuids", "jsons"):
        if not isinstance(value, list):
            raise ValueError("expected an array")
    elif kind == "json":
        if not isinstance(value, dict):
            raise ValueError("expected a record")
    elif kind == "ref":
        if isinstance(value, str):
            value = {"id": value}
        if not isinstance(value, dict) or not ("id" in value or "name" in value or "username" in value):
            raise ValueError("missing primary key")
    return value


def shorthand_url(body):
    """`url` of a service stands for protocol, host, port and path."""
    url = body.pop("url", None)
    if url is None:
        return {}
    match = re.fullmatch(r"(https?|grpcs?|tcp|tls)://(\[[^\]]+\]|[^/:?#]+)(?::(\d+))?(/[^?#]*)?", str(url))
    if not match:
        return {"url": "missing host in url"}
    body["protocol"], body["host"] = match[1], match[2]
    body["port"] = int(match[3]) if match[3] else 443 if match[1] in ("https", "grpcs", "tls") else 80
    if match[4]:
        body["path"] = match[4]
    return {}


def check(entity, minor, body, known_plugins, partial=False):
    """The complete, checked values of a body; raises Invalid. With `partial` only what is given."""
    body = dict(body)
    problems = shorthand_url(body) if entity.table == "services" else {}
    fields = entity.fields_of(minor)
    values = {}
    for name in body:
        if name not in fields and name not in ("id", "created_at", "updated_at"):
            problems[name] = "unknown field"
    for name, field in fields.items():
        if name not in body and partial:
            continue
        value = body.get(name)
        if value is None and name not in body:
            value = field.default_value()
        if value is None:
            if field.required:
                problems[name] = "required field missing"
            values[name] = None
            continue
        try:
            values[name] = check_value(field, value)
        except ValueError as error:
            problems[name] = str(error)
    check_entity(entity, minor, values, known_plugins, partial, problems)
    if "id" in body:
        try:
            values["id"] = str(uuid.UUID(str(body["id"])))
        except ValueError:
            problems["id"] = "expected a valid UUID"
    if problems:
        raise Invalid(problems)
    return values


def check_entity(entity, minor, values, known_plugins, partial, problems):
    """What concerns one entity as a whole."""
    if entity.table == "services":
        if values.get("port") is not None and not 0 <= values["port"] <= 65535:
            problems["port"] = "value should be between 0 and 65535"
        if values.get("protocol") not in (None, "http", "https", "grpc", "grpcs", "tcp", "tls", "udp", "tls_passthrough"):
            problems["protocol"] = "expected one of: grpc, grpcs, http, https, tcp, tls, tls_passthrough, udp"
        if values.get("path") and not values["path"].startswith("/"):
            problems["path"] = "should start with: /"
    elif entity.table == "routes":
        check_route(minor, values, partial, problems)
    elif entity.table == "consumers" and not partial and not (values.get("username") or values.get("custom_id")):
        problems["@entity"] = ["at least one of these fields must be non-empty: 'custom_id', 'username'"]
    elif entity.table == "plugins" and "name" not in problems and not partial:
        name = values["name"]
        if name not in known_plugins:
            problems["name"] = f"plugin '{name}' not enabled; add it to the 'plugins' configuration property"
        elif isinstance(values.get("config"), dict):
            values["config"] = check_plugin(name, minor, values["config"], problems)
    elif entity.table == "targets" and values.get("target") and ":" not in values["target"]:
        values["target"] += ":8000"


def check_route(minor, values, partial, problems):
    for path in values.get("paths") or ():
        if path.startswith("~") and minor >= (3, 0):
            try:
                re.compile(path[1:])
            except re.error:
                problems["paths"] = [f"invalid regex: '{path[1:]}' (PCRE returned: pcre_compile() failed)"]
        elif not path.startswith("/"):
            problems["paths"] = ["should start with: / (fixed path) or ~/ (regexed path)" if minor >= (3, 0)
                                 else "should start with: /"]
        elif minor >= (3, 0) and not PLAIN_PATH.fullmatch(path):
            problems["paths"] = ["should not include characters outside of the reserved list of RFC 3986"]
    protocols = values.get("protocols") or []
    if not partial and {"http", "https"} & set(protocols):
        if not any(values.get(name) for name in ("methods", "hosts", "headers", "paths", "snis")):
            names = "'methods', 'hosts', 'headers', 'paths', 'snis'" if "https" in protocols \
                else "'methods', 'hosts', 'headers', 'paths'"
            problems["@entity"] = [f"must set one of {names} when 'protocols' is '{protocols[0]}'"]


# --- rows


def from_row(entity, minor, row):
    """A row as the Admin API shows it."""
    item = {"id": str(row["id"]), "created_at": stamp(entity, row.get("created_at"))}
    if entity.has_updated_at(minor):
        item["updated_at"] = stamp(entity, row.get("updated_at"))
    for name, field in entity.fields_of(minor).items():
        value = row.get(field.column(name))
        if field.kind == "ref":
            value = {"id": str(value)} if value else None
        elif field.kind == "uuids" and isinstance(value, list):
            value = [str(item) for item in value]
        elif field.kind == "ttl":
            value = max(0, int(row["ttl_left"])) if row.get("ttl_left") is not None else None
        item[name] = value
    if entity.table == "plugins":
        item["config"] = plugin_defaults(item["name"], minor, item["config"] or {})
    return item


def stamp(entity, value):
    if value is None:
        return None
    return round(value.timestamp(), 3) if entity.table == "targets" else int(value.timestamp())


def columns_of(entity, minor):
    """The select list: what this version knows, so that a newer schema does no harm."""
    names = ["id", "created_at"] + (["updated_at"] if entity.has_updated_at(minor) else [])
    for name, field in entity.fields_of(minor).items():
        names.append(f'"{field.column(name)}"')
        if field.kind == "ttl":
            names.append("extract(epoch FROM ttl - CURRENT_TIMESTAMP) AS ttl_left")
    return ", ".join(names)


def to_column(field, value):
    if value is None:
        return None
    if field.kind == "json":
        return json.dumps(value)
    if field.kind == "jsons":
        return [json.dumps(item) for item in value]
    if field.kind == "ref":
        return value["id"]
    return value


psycopg2.extras.register_uuid()

"""kong.conf and KONG_* environment: reading, defaults, <prefix>/.kong_env."""

import os
import re

DEFAULTS = {
    "prefix": "/usr/local/kong", "role": "traditional", "database": "postgres", "log_level": "notice",
    "plugins": "bundled", "admin_listen": "127.0.0.1:8001 reuseport backlog=16384, "
                                          "127.0.0.1:8444 http2 ssl reuseport backlog=16384",
    "admin_gui_listen": "0.0.0.0:8002, 0.0.0.0:8445 ssl",
    "proxy_listen": "0.0.0.0:8000 reuseport backlog=16384, 0.0.0.0:8443 http2 ssl reuseport backlog=16384",
    "status_listen": "off", "cluster_listen": "0.0.0.0:8005", "cluster_control_plane": "127.0.0.1:8005",
    "cluster_mtls": "shared", "cluster_cert": "", "cluster_cert_key": "", "cluster_server_name": "",
    "cluster_data_plane_purge_delay": "1209600", "cluster_max_payload": "16777216", "cluster_dp_labels": "",
    "pg_host": "127.0.0.1", "pg_port": "5432", "pg_timeout": "5000", "pg_user": "kong", "pg_password": "",
    "pg_database": "kong", "pg_schema": "", "pg_ssl": "off", "db_update_frequency": "5", "headers":
    "server_tokens, latency_tokens, X-Kong-Request-Id", "nginx_daemon": "on", "lua_package_path": "./?.lua;./?/init.lua;",
    "nginx_worker_processes": "auto", "router_flavor": "traditional_compatible", "vaults": "bundled",
    "mem_cache_size": "128m", "upstream_keepalive_pool_size": "512", "upstream_keepalive_idle_timeout": "60",
    "real_ip_header": "X-Real-IP", "trusted_ips": "", "anonymous_reports": "on", "untrusted_lua": "sandbox",
    "nginx_http_client_max_body_size": "0", "worker_consistency": "eventual", "worker_state_update_frequency": "5",
    # Of the stand-in alone: seconds between pings, least and most seconds before a lost control plane is tried
    # again, seconds each migration takes. Real Kong ignores settings it does not know.
    "standin_ping": "30", "standin_retry": "5-10", "standin_migration_delay": "0",
}


class ConfError(Exception):
    """A setting that cannot be used."""


class Conf(dict):
    """Settings as text, by name."""

    def array(self, name):
        """A comma separated setting as a list; `off` and empty are no elements."""
        values = [part.strip() for part in self.get(name, "").split(",")]
        return [value for value in values if value and value != "off"]

    def seconds(self, name):
        return float(self[name])

    @property
    def has_database(self):
        return self["database"] == "postgres"

    @property
    def pid_file(self):
        return os.path.join(self["prefix"], "pids", "nginx.pid")

    @property
    def env_file(self):
        return os.path.join(self["prefix"], ".kong_env")


def parse_file(path):
    """The `key = value` lines of a file."""
    values = {}
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            # As Kong: a # starts a comment unless it is escaped.
            line = re.sub(r"(?<!\\)#.*$", "", line.rstrip("\n")).strip()
            if not line:
                continue
            key, found, value = line.partition("=")
            if found:
                values[key.strip()] = value.strip().replace("\\#", "#")
    return values


def from_environment():
    return {key[5:].lower(): value.strip() for key, value in os.environ.items() if key.startswith("KONG_")}


def load(path, prefix=None, base=None):
    """Defaults, then `base`, the file, the environment and the prefix of the command line, last wins."""
    values = dict(base or {})
    if path:
        if not os.path.isfile(path):
            raise ConfError(f"no file at: {path}")
        values.update(parse_file(path))
    elif base is None:
        for default in ("/etc/kong/kong.conf", "/etc/kong.conf"):
            if os.path.isfile(default):
                values.update(parse_file(default))
                break
    values.update(from_environment())
    if prefix:
        values["prefix"] = prefix
    conf = Conf(DEFAULTS)
    # Settings nobody knows are ignored.
    conf.update((name, value) for name, value in values.items() if name in DEFAULTS)
    conf["prefix"] = os.path.abspath(conf["prefix"])
    check(conf)
    return conf


def check(conf):
    """Kong's checks that concern the roles, with Kong's texts."""
    if conf["role"] not in ("traditional", "control_plane", "data_plane"):
        raise ConfError(f"role has an invalid value: '{conf['role']}' (traditional, control_plane, data_plane)")
    if conf["database"] not in ("postgres", "off"):
        raise ConfError(f"database has an invalid value: '{conf['database']}' (postgres, off)")
    if not re.fullmatch(r"\d+", conf["pg_port"]) or int(conf["pg_port"]) > 65535:
        raise ConfError("pg_port must be an integer from 0 to 65535")
    if conf["role"] == "control_plane":
        if not conf.array("admin_listen"):
            raise ConfError('admin_listen must be specified when role = "control_plane"')
        if not conf.array("cluster_listen"):
            raise ConfError('cluster_listen must be specified when role = "control_plane"')
        if not conf.has_database:
            raise ConfError("in-memory storage can not be used when role = \"control_plane\"")
    elif conf["role"] == "data_plane":
        if conf.has_database:
            raise ConfError("only in-memory storage can be used when role = \"data_plane\"\n"
                            "Hint: set database = off in your kong.conf")
        if not conf.array("proxy_listen"):
            raise ConfError('proxy_listen must be specified when role = "data_plane"')
        conf["admin_listen"] = "off"
    if conf["role"] != "traditional":
        for name in ("cluster_cert", "cluster_cert_key"):
            if not conf[name]:
                raise ConfError("cluster certificate and key must be provided to use Hybrid mode")
            if not os.path.isfile(conf[name]):
                raise ConfError(f"{name}: failed loading certificate from {conf[name]}")
    for name in ("admin_listen", "proxy_listen", "status_listen", "cluster_listen"):
        listeners(conf, name)


def listeners(conf, name):
    """The addresses of a *_listen setting: [(host, port, flags)]."""
    found = []
    for text in conf.array(name):
        words = text.split()
        match = re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^:\s]+):(\d+)", words[0])
        if not match or int(match[2]) > 65535:
            raise ConfError(f"{name} must be of form: [off] | <ip>:<port> [ssl] [http2] ..., [... next entry ...]")
        found.append((match[1].strip("[]"), int(match[2]), words[1:]))
    return found


def write_env(conf):
    """Keeps the settings in use in the prefix: reload, stop and `kong config` read them back."""
    text = "".join(f"{key} = {value.replace('#', chr(92) + '#')}\n" for key, value in sorted(conf.items()))
    temporary = conf.env_file + ".new"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(text)
    os.replace(temporary, conf.env_file)

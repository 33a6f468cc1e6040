"""Which plugins a node has: the bundled ones, and others found on lua_package_path."""

import os
import re

from .errors import KongError


def handler_file(conf, name):
    """The handler.lua Lua would load for a plugin, or None."""
    module = f"kong/plugins/{name}/handler"
    for template in conf["lua_package_path"].split(";"):
        path = template.strip().replace("?", module)
        if path and os.path.isfile(path):
            return path
    return None


def installed(conf, version):
    """Every plugin the node could load: name -> (version, priority)."""
    found = dict(version.bundled())
    for name in conf.array("plugins"):
        if name == "bundled" or name in found:
            continue
        path = handler_file(conf, name)
        if path is None:
            continue
        with open(path, encoding="utf-8", errors="replace") as source:
            text = source.read()
        number = re.search(r"VERSION\s*=\s*[\"']([^\"']+)", text)
        priority = re.search(r"PRIORITY\s*=\s*(-?\d+)", text)
        found[name] = (number[1] if number else None, int(priority[1]) if priority else 0)
    return found


def enabled(conf, version):
    """The enabled ones, name -> (version, priority); refuses one that is not installed."""
    available = installed(conf, version)
    chosen = {}
    for name in conf.array("plugins"):
        if name == "bundled":
            chosen.update(version.bundled())
        elif name in available:
            chosen[name] = available[name]
        else:
            raise KongError(init_error("710", f"error loading plugin schemas: on plugin '{name}': {name} plugin is enabled "
                                              "but not installed;\nno plugin found"))
    return chosen


def init_error(line, text):
    """As Kong shows an error of its init phase."""
    return (f"./kong/cmd/start.lua:99: nginx: [error] init_by_lua error: /usr/local/share/lua/5.1/kong/init.lua:{line}: {text}"
            "\nstack traceback:\n\t[C]: in function 'error'\n\tinit_by_lua(nginx-kong.conf:44):3: in main chunk\n\n")


def check_in_use(used, chosen):
    for name in used:
        if name not in chosen:
            raise KongError(init_error("745", f"error building initial plugins: {name} plugin is in use but not enabled"))


def incompatible(configured, mine, theirs):
    """Why a data plane's plugins do not fit the configured ones: (sync_status, text), or None."""
    for name in sorted(configured):
        own = mine.get(name)
        if own is None:
            continue
        if name not in theirs:
            return "plugin_set_incompatible", f"configured {name} plugin {own[0]} is missing from data plane"
        if not own[0] or not theirs[name]:
            continue
        if own[0].split(".")[0] != theirs[name].split(".")[0] or minor(own[0]) < minor(theirs[name]):
            if name == "opentelemetry" and theirs[name].startswith("0.1."):
                continue
            return "plugin_version_incompatible", (f"configured data plane {name} plugin version {theirs[name]} is different "
                                                   f"to control plane plugin version {own[0]}")
    return None


def minor(text):
    match = re.match(r"\d+\.(\d+)", text)
    return int(match[1]) if match else 0

"""From a configuration to the answer which service a request goes to and which plugins it meets."""

import re
from operator import itemgetter


class Service:
    """Where a route leads."""

    def __init__(self, item, targets):
        self.id, self.name, self.path = item["id"], item["name"], item["path"] or ""
        self.tls = item["protocol"] in ("https", "grpcs")
        self.retries = item["retries"] if item["retries"] is not None else 5
        self.connect_timeout = (item["connect_timeout"] or 60000) / 1000
        self.read_timeout = (item["read_timeout"] or 60000) / 1000
        self.host, self.port = item["host"], item["port"] or 80
        self.targets = targets
        default = 443 if self.tls else 80
        self.authority = self.host if self.port == default else f"{self.host}:{self.port}"
        self.turn = 0

    def addresses(self):
        """What to try, in order: (host, port, text for the Host header); none when an upstream has no target."""
        if self.targets is None:
            return [(self.host, self.port, self.authority)]
        count = len(self.targets)
        self.turn += 1
        return [self.targets[(self.turn + step) % count] for step in range(count)]


def spread(targets):
    """Targets repeated by weight, interleaved."""
    slots = []
    for target in targets:
        host, _, port = target["target"].rpartition(":")
        weight = min(target["weight"], 100)
        slots += [((n + 0.5) / weight, target["target"], (host.strip("[]"), int(port), target["target"])) for n in range(weight)]
    return [slot[2] for slot in sorted(slots, key=itemgetter(0, 1))]


class Route:
    """A route made ready for matching."""

    def __init__(self, item, service, marked_regexes):
        self.item, self.service, self.id = item, service, item["id"]
        self.protocols = set(item["protocols"] or ())
        self.methods = set(item["methods"] or ())
        self.hosts, self.host_patterns = set(), []
        for host in item["hosts"] or ():
            if "*" in host:
                self.host_patterns.append(re.compile(re.escape(host.lower()).replace(r"\*", ".+") + r"(:\d+)?"))
            else:
                self.hosts.add(host.lower())
        self.headers = {name.lower(): set(values) for name, values in (item["headers"] or {}).items()}
        self.prefixes, self.regexes = [], []
        for path in item["paths"] or ():
            if path.startswith("~"):
                self.regexes.append(re.compile(path[1:]))
            elif not marked_regexes and not re.fullmatch(r"[a-zA-Z0-9.\-_~/%]*", path):
                self.regexes.append(re.compile(path))
            else:
                self.prefixes.append(path)
        self.prefixes.sort(key=len, reverse=True)
        self.strip = item["strip_path"]
        self.preserve_host = item["preserve_host"]
        self.plugins = []

    def rank(self):
        """More criteria first, then hosts without wildcard, regexes by priority, longer prefixes, older routes."""
        criteria = sum(map(bool, (self.methods, self.hosts or self.host_patterns, self.headers, self.prefixes or self.regexes)))
        longest = len(self.prefixes[0]) if self.prefixes else 0
        return (-criteria, bool(self.host_patterns), -len(self.headers), not self.regexes, -(self.item["regex_priority"] or 0),
                -longest, self.item["created_at"] or 0, self.id)

    def match(self, method, scheme, host, path, headers):
        """The part of the path that matched, or None."""
        if scheme not in self.protocols or self.methods and method not in self.methods:
            return None
        if self.hosts or self.host_patterns:
            bare = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
            if host not in self.hosts and bare not in self.hosts and not any(p.fullmatch(host) for p in self.host_patterns):
                return None
        for name, values in self.headers.items():
            if headers.get(name) not in values:
                return None
        if not self.prefixes and not self.regexes:
            return ""
        for regex in self.regexes:
            found = regex.match(path)
            if found:
                return found[0]
        for prefix in self.prefixes:
            if path.startswith(prefix):
                return prefix
        return None

    def upstream_path(self, path, matched):
        """path_handling v0: the service's path, a slash, and what is left of the request's."""
        base = self.service.path
        if self.strip:
            path = path[len(matched):]
        if not base or base == "/":
            return path if path.startswith("/") else "/" + path
        if not path or path == "/" and not base.endswith("/") and self.strip and matched and not matched.endswith("/"):
            return base + path
        return base.rstrip("/") + "/" + path.lstrip("/")


class Router:
    """All routes of a configuration, most specific first."""

    def __init__(self, config, priorities, marked_regexes=True):
        upstreams = {item["id"]: item["name"] for item in config.get("upstreams", ())}
        by_upstream = {name: [] for name in upstreams.values()}
        for target in config.get("targets", ()):
            name = upstreams.get(target["upstream"]["id"])
            if name and target["weight"] > 0:
                by_upstream[name].append(target)
        services = {}
        for item in config.get("services", ()):
            if item.get("enabled") is not False:
                targets = spread(by_upstream[item["host"]]) if item["host"] in by_upstream else None
                services[item["id"]] = Service(item, targets)
        self.routes = []
        for item in config.get("routes", ()):
            service = services.get(item["service"]["id"]) if item["service"] else None
            if item["service"] is None or service:
                self.routes.append(Route(item, service, marked_regexes))
        self.routes.sort(key=Route.rank)
        self.consumers = {item["id"]: item for item in config.get("consumers", ())}
        self.keys = {item["key"]: item for item in config.get("keyauth_credentials", ())}
        plugins = [item for item in config.get("plugins", ()) if item["enabled"]]
        for route in self.routes:
            route.plugins = chain(plugins, route, priorities)
        self.memory = {}

    def find(self, method, scheme, host, path, headers):
        """The route and what of the path it matched, or None."""
        for route in self.routes:
            matched = route.match(method, scheme, host, path, headers)
            if matched is not None:
                return route, matched
        return None


def chain(plugins, route, priorities):
    """The plugins a route's requests meet, in order: [(name, candidates)], most specific candidate first."""
    found = {}
    for item in plugins:
        if item["route"] and item["route"]["id"] != route.id:
            continue
        if item["service"] and (route.service is None or item["service"]["id"] != route.service.id):
            continue
        found.setdefault(item["name"], []).append(item)
    for items in found.values():
        items.sort(key=lambda item: (-sum(map(bool, (item["route"], item["service"], item["consumer"]))),
                                     not item["consumer"], not item["route"]))
    return sorted(found.items(), key=lambda entry: -priorities.get(entry[0], 0))


def choose(candidates, consumer_id):
    """The configuration in force for this consumer, or None."""
    for item in candidates:
        if item["consumer"] is None or item["consumer"]["id"] == consumer_id:
            return item["config"]
    return None

"""What differs from one Kong version to the next, as data."""

import re

SUPPORTED = ("2.8.5", "3.4.2", "3.5.0", "3.6.1", "3.7.1", "3.8.1", "3.9.3")

ZERO_HASH = "0" * 32

PLUGIN_PRIORITY = {
    "acl": 950, "acme": 1705, "aws-lambda": 750, "azure-functions": 749, "basic-auth": 1100, "bot-detection": 2500,
    "correlation-id": 1, "cors": 2000, "datadog": 10, "file-log": 9, "grpc-gateway": 998, "grpc-web": 3,
    "hmac-auth": 1030, "http-log": 12, "ip-restriction": 990, "jwt": 1450, "key-auth": 1250, "ldap-auth": 1200,
    "loggly": 6, "oauth2": 1400, "post-function": -1000, "pre-function": 1000000, "prometheus": 13,
    "proxy-cache": 100, "rate-limiting": 910, "request-size-limiting": 951, "request-termination": 2,
    "request-transformer": 801, "response-ratelimiting": 900, "response-transformer": 800, "session": 1900,
    "statsd": 11, "syslog": 4, "tcp-log": 7, "udp-log": 8, "zipkin": 100000,
}

# (first version that has it, plugins and priorities)
PLUGINS_ADDED = (
    ((3, 0), {"opentelemetry": 14}),
    ((3, 6), {"ai-prompt-decorator": 772, "ai-prompt-guard": 771, "ai-prompt-template": 773, "ai-proxy": 770,
              "ai-request-transformer": 777, "ai-response-transformer": 769}),
    ((3, 8), {"standard-webhooks": 760}),
    ((3, 9), {"redirect": 779, "correlation-id": 100001, "ai-response-transformer": 768}),
)

# Versions in one class compute the same configuration hash from the same database content.
HASH_CLASSES = {(2, 8): "2.8", (3, 4): "3.4", (3, 5): "3.4", (3, 6): "3.6", (3, 7): "3.7", (3, 8): "3.8",
                (3, 9): "3.8"}


def number(version):
    """The major and minor of a version text as a pair, or None."""
    match = re.match(r"(\d+)\.(\d+)\.\d+", version or "")
    return (int(match[1]), int(match[2])) if match else None


class Version:
    """One Kong version and its traits."""

    def __init__(self, text):
        if text not in SUPPORTED:
            raise SystemExit(f"stand-in kong: unknown version {text}; one of {', '.join(SUPPORTED)}")
        self.text = text
        self.minor = number(text)
        self.tag = "%d.%d" % self.minor
        self.hash_class = HASH_CLASSES[self.minor]

    def has(self, major, minor):
        """Whether this version is major.minor or newer."""
        return self.minor >= (major, minor)

    @property
    def server(self):
        return "kong/" + self.text

    @property
    def via(self):
        return ("1.1 kong/" if self.has(3, 8) else "kong/") + self.text

    def bundled(self):
        """Bundled plugins: name -> (version, priority)."""
        priorities = dict(PLUGIN_PRIORITY)
        for since, added in PLUGINS_ADDED:
            if self.minor >= since:
                priorities.update(added)
        plugins = {name: (self.text, priority) for name, priority in priorities.items()}
        if (3, 0) <= self.minor < (3, 8):
            plugins["opentelemetry"] = ("0.1.0", 14)
        return plugins


def refusal(control_plane, data_plane):
    """Why a control plane refuses a data plane of this version, or None."""
    mine, theirs = number(control_plane), number(data_plane)
    if theirs is None:
        return f"data plane version {data_plane} is incompatible with control plane version"
    if mine[0] != theirs[0]:
        return (f"data plane version {data_plane} is incompatible with control plane version {control_plane} "
                f"({mine[0]}.x.y are accepted)")
    if mine[1] < theirs[1]:
        return f"data plane version {data_plane} is incompatible with older control plane version {control_plane}"
    return None

"""The plugins a data plane really runs. Each looks at an exchange and may end it with Denied."""

import time
import urllib.parse


class Denied(Exception):
    """Kong answers by itself. `body` is (content type, bytes) instead of a message."""

    def __init__(self, status, message=None, headers=(), body=None):
        super().__init__(message)
        self.status, self.message, self.headers, self.body = status, message, headers, body


def key_auth(exchange, config, router, version):
    """Finds the consumer by a key in a header or the query."""
    key = None
    for name in config["key_names"]:
        if config["key_in_header"]:
            key = exchange.header(name) or None
        if key is None and config["key_in_query"]:
            values = urllib.parse.parse_qs(exchange.query).get(name)
            key = values[0] if values else None
        if key is not None:
            if config["hide_credentials"]:
                exchange.upstream_headers.append((name, None))
            break
    realm = config.get("realm")
    challenge = f'Key realm="{realm}"' if realm else "Key" if version.has(3, 7) else 'Key realm="kong"'
    credential = router.keys.get(key) if key is not None else None
    if credential is None:
        if config["anonymous"] in router.consumers:
            identify(exchange, router.consumers[config["anonymous"]], None)
            return
        if key is None:
            raise Denied(401, "No API key found in request", [("WWW-Authenticate", challenge)])
        text = "Unauthorized" if version.has(3, 7) else "Invalid authentication credentials"
        raise Denied(401, text, [("WWW-Authenticate", challenge)] if version.has(3, 7) else [])
    identify(exchange, router.consumers.get(credential["consumer"]["id"]), credential)


def identify(exchange, consumer, credential):
    exchange.consumer, exchange.credential = consumer, credential
    if consumer is None:
        return
    headers = [("X-Consumer-ID", consumer["id"]), ("X-Consumer-Custom-ID", consumer["custom_id"]),
               ("X-Consumer-Username", consumer["username"]), ("X-Credential-Identifier", credential and credential["id"]),
               ("X-Anonymous-Consumer", None if credential else "true")]
    exchange.upstream_headers += headers


PERIODS = (("second", 1), ("minute", 60), ("hour", 3600), ("day", 86400), ("month", 30 * 86400), ("year", 365 * 86400))


def rate_limiting(exchange, config, router, _version):
    """Fixed windows, counted in this process."""
    now = time.time()
    if config["limit_by"] == "service":
        who = "service"
    elif config["limit_by"] in ("consumer", "credential") and (exchange.consumer or exchange.credential):
        who = (exchange.consumer or exchange.credential)["id"]
    else:
        who = exchange.client.address
    counts = []
    for period, seconds in PERIODS:
        limit = config[period]
        if limit is None:
            continue
        key = (exchange.route.id, who, period, int(now // seconds))
        counts.append((limit, router.memory.get(key, 0), period, seconds, key))
    if len(router.memory) > 10000:
        router.memory.clear()
    exceeded = [entry for entry in counts if entry[1] >= entry[0]]
    for limit, used, *_, key in counts:
        if not exceeded:
            router.memory[key] = used + 1
    headers = []
    if not config["hide_client_headers"]:
        left = [max(0, limit - used - (0 if exceeded else 1)) for limit, used, *_ in counts]
        tightest = min(range(len(counts)), key=left.__getitem__)
        limit, _, _, seconds, _ = counts[tightest]
        headers = [("RateLimit-Limit", limit), ("RateLimit-Remaining", left[tightest]),
                   ("RateLimit-Reset", max(1, int(seconds - now % seconds)))]
        for (limit, _, period, _, _), remaining in zip(counts, left):
            headers += [(f"X-RateLimit-Limit-{period.capitalize()}", limit),
                        (f"X-RateLimit-Remaining-{period.capitalize()}", remaining)]
    if exceeded:
        wait = max(1, int(exceeded[-1][3] - now % exceeded[-1][3]))
        raise Denied(config.get("error_code", 429), config.get("error_message", "API rate limit exceeded"),
                     [*headers, ("Retry-After", wait)])
    exchange.response_headers += headers


def request_termination(exchange, config, _router, _version):
    """Always the same answer."""
    if config.get("trigger") and not exchange.header(config["trigger"]) and f"{config['trigger']}=" not in exchange.query:
        return
    if config["body"] is not None:
        raise Denied(config["status_code"], body=(config["content_type"] or "application/json; charset=utf-8",
                                                  config["body"].encode()))
    defaults = {401: "Unauthorized", 404: "Not found", 405: "Method not allowed", 500: "An unexpected error occurred",
                502: "Bad gateway", 503: "Service unavailable"}
    text = config["message"] or defaults.get(config["status_code"], "")
    raise Denied(config["status_code"], body=("application/json; charset=utf-8", f'{{"message":"{text}"}}'.encode()))


POLICIES = {"key-auth": key_auth, "rate-limiting": rate_limiting, "request-termination": request_termination}

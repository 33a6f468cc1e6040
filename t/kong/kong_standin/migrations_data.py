"""The migrations each version knows and what they do to the tables.

A migration is (subsystem, name, since, up, teardown, teardown_since). `since` is the first version that ships it. With a
teardown it stays pending after `up` until `finish`; teardown_since is the first version in which it has one. What Kong
before 2.8 did step by step is done at once by 000_base: the steps are only recorded.
"""

TAGGED = ("services", "routes", "consumers", "plugins", "upstreams", "targets", "certificates", "snis", "ca_certificates",
          "keyauth_credentials", "basicauth_credentials", "acls", "jwt_secrets", "hmacauth_secrets", "oauth2_credentials")


def tag_trigger(table):
    return (f"DROP TRIGGER IF EXISTS {table}_sync_tags_trigger ON {table};"
            f"CREATE TRIGGER {table}_sync_tags_trigger AFTER INSERT OR UPDATE OF tags OR DELETE ON {table} "
            "FOR EACH ROW EXECUTE PROCEDURE sync_tags();")


CORE_BASE = """
CREATE TABLE IF NOT EXISTS locks (key text PRIMARY KEY, owner text, ttl timestamp with time zone);
CREATE TABLE IF NOT EXISTS cluster_events (
  id uuid PRIMARY KEY, node_id uuid NOT NULL, at timestamp with time zone NOT NULL, nbf timestamp with time zone,
  expire_at timestamp with time zone NOT NULL, channel text, data text);
CREATE INDEX IF NOT EXISTS cluster_events_at_idx ON cluster_events (at);
CREATE INDEX IF NOT EXISTS cluster_events_expire_at_idx ON cluster_events (expire_at);
CREATE TABLE IF NOT EXISTS parameters (key text PRIMARY KEY, value text NOT NULL, created_at timestamp with time zone);
CREATE TABLE IF NOT EXISTS tags (entity_id uuid PRIMARY KEY, entity_name text, tags text[]);
CREATE TABLE IF NOT EXISTS workspaces (
  id uuid PRIMARY KEY, name text UNIQUE, comment text, created_at timestamp with time zone DEFAULT now(),
  meta jsonb, config jsonb);
CREATE TABLE IF NOT EXISTS ttls (
  primary_key_value text NOT NULL, primary_uuid_value uuid, table_name text NOT NULL, primary_key_name text NOT NULL,
  expire_at timestamp without time zone NOT NULL, PRIMARY KEY (primary_key_value, table_name));
CREATE TABLE IF NOT EXISTS certificates (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), cert text, key text, tags text[],
  ws_id uuid REFERENCES workspaces (id), cert_alt text, key_alt text, UNIQUE (id, ws_id));
CREATE TABLE IF NOT EXISTS ca_certificates (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), cert text NOT NULL UNIQUE, tags text[],
  cert_digest text UNIQUE);
CREATE TABLE IF NOT EXISTS snis (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), name text NOT NULL UNIQUE,
  certificate_id uuid REFERENCES certificates (id), tags text[], ws_id uuid REFERENCES workspaces (id));
CREATE TABLE IF NOT EXISTS services (
  id uuid PRIMARY KEY, created_at timestamp with time zone, updated_at timestamp with time zone, name text,
  retries bigint, protocol text, host text, port bigint, path text, connect_timeout bigint, write_timeout bigint,
  read_timeout bigint, tags text[], client_certificate_id uuid REFERENCES certificates (id), tls_verify boolean,
  tls_verify_depth smallint, ca_certificates uuid[], ws_id uuid REFERENCES workspaces (id), enabled boolean DEFAULT true,
  UNIQUE (ws_id, name));
CREATE TABLE IF NOT EXISTS routes (
  id uuid PRIMARY KEY, created_at timestamp with time zone, updated_at timestamp with time zone, name text,
  service_id uuid REFERENCES services (id), protocols text[], methods text[], hosts text[], paths text[], snis text[],
  sources jsonb[], destinations jsonb[], regex_priority bigint, strip_path boolean, preserve_host boolean, tags text[],
  https_redirect_status_code integer, headers jsonb, path_handling text DEFAULT 'v0',
  ws_id uuid REFERENCES workspaces (id), request_buffering boolean, response_buffering boolean, UNIQUE (ws_id, name));
CREATE INDEX IF NOT EXISTS routes_service_id_idx ON routes (service_id);
CREATE TABLE IF NOT EXISTS consumers (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), username text, custom_id text, tags text[],
  ws_id uuid REFERENCES workspaces (id), UNIQUE (ws_id, username), UNIQUE (ws_id, custom_id));
CREATE TABLE IF NOT EXISTS plugins (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), name text NOT NULL,
  consumer_id uuid REFERENCES consumers (id) ON DELETE CASCADE, service_id uuid REFERENCES services (id) ON DELETE CASCADE,
  route_id uuid REFERENCES routes (id) ON DELETE CASCADE, config jsonb NOT NULL, enabled boolean NOT NULL,
  cache_key text UNIQUE, protocols text[], tags text[], ws_id uuid REFERENCES workspaces (id));
CREATE INDEX IF NOT EXISTS plugins_name_idx ON plugins (name);
CREATE TABLE IF NOT EXISTS upstreams (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), name text, hash_on text, hash_fallback text,
  hash_on_header text, hash_fallback_header text, hash_on_cookie text, hash_on_cookie_path text, slots integer NOT NULL,
  healthchecks jsonb, tags text[], algorithm text, host_header text,
  client_certificate_id uuid REFERENCES certificates (id), ws_id uuid REFERENCES workspaces (id), UNIQUE (ws_id, name));
CREATE TABLE IF NOT EXISTS targets (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(),
  upstream_id uuid REFERENCES upstreams (id) ON DELETE CASCADE, target text NOT NULL, weight integer NOT NULL, tags text[],
  ws_id uuid REFERENCES workspaces (id));
CREATE TABLE IF NOT EXISTS clustering_data_planes (
  id uuid PRIMARY KEY, hostname text NOT NULL, ip text NOT NULL,
  last_seen timestamp with time zone DEFAULT now(), config_hash text NOT NULL, ttl timestamp with time zone,
  version text, sync_status text NOT NULL DEFAULT 'unknown');
CREATE TABLE IF NOT EXISTS vaults_beta (
  id uuid PRIMARY KEY, ws_id uuid REFERENCES workspaces (id), prefix text UNIQUE, name text NOT NULL, description text,
  config jsonb NOT NULL, created_at timestamp with time zone, updated_at timestamp with time zone, tags text[]);
CREATE OR REPLACE FUNCTION sync_tags() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' THEN
    DELETE FROM tags WHERE entity_id = OLD.id;
    RETURN OLD;
  END IF;
  IF NEW.tags IS NULL THEN
    DELETE FROM tags WHERE entity_id = NEW.id;
  ELSE
    INSERT INTO tags VALUES (NEW.id, TG_TABLE_NAME, NEW.tags)
    ON CONFLICT (entity_id) DO UPDATE SET tags = EXCLUDED.tags;
  END IF;
  RETURN NEW;
END $$;
INSERT INTO workspaces (id, name, meta, config) VALUES (gen_random_uuid(), 'default', '{}', '{}') ON CONFLICT DO NOTHING;
INSERT INTO parameters (key, value, created_at) VALUES ('cluster_id', gen_random_uuid(), now()) ON CONFLICT DO NOTHING;
""" + "".join(tag_trigger(table) for table in TAGGED[:9])


def credentials(table, columns, key="key"):
    """A table of consumers' credentials."""
    return (f"CREATE TABLE IF NOT EXISTS {table} (id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), "
            f"consumer_id uuid REFERENCES consumers (id) ON DELETE CASCADE, {columns}, tags text[], "
            f"ws_id uuid REFERENCES workspaces (id), UNIQUE (ws_id, {key}));" + tag_trigger(table))


OAUTH2_BASE = credentials("oauth2_credentials", "name text, client_id text, client_secret text, redirect_uris text[], "
                          "client_type text, hash_secret boolean", "client_id") + """
CREATE TABLE IF NOT EXISTS oauth2_tokens (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), access_token text UNIQUE, refresh_token text,
  token_type text, expires_in integer, authenticated_userid text, scope text, ttl timestamp with time zone, ws_id uuid);
CREATE TABLE IF NOT EXISTS oauth2_authorization_codes (
  id uuid PRIMARY KEY, created_at timestamp with time zone DEFAULT now(), code text UNIQUE, authenticated_userid text,
  scope text, ttl timestamp with time zone, challenge text, challenge_method text, ws_id uuid);"""

METRICS = """CREATE TABLE IF NOT EXISTS {}_metrics (
  identifier text, period text, period_date timestamp with time zone, service_id uuid, route_id uuid, value integer,
  ttl timestamp with time zone, PRIMARY KEY (identifier, period_date, period, service_id, route_id));"""

# 2.x took a path with any of these for a regex; 3.0 wants the mark.
REGEX_PATHS = r"""
UPDATE routes SET paths = (
  SELECT array_agg(CASE WHEN p ~ '^[a-zA-Z0-9.\-_~/%]*$' THEN p ELSE '~' || p END ORDER BY n)
  FROM unnest(paths) WITH ORDINALITY AS u (p, n))
WHERE EXISTS (SELECT 1 FROM unnest(paths) p WHERE p !~ '^[a-zA-Z0-9.\-_~/%]*$');"""

CORE_300 = """
CREATE TABLE IF NOT EXISTS sm_vaults (
  id uuid PRIMARY KEY, ws_id uuid REFERENCES workspaces (id), prefix text UNIQUE, name text NOT NULL, description text,
  config jsonb NOT NULL, created_at timestamp with time zone, updated_at timestamp with time zone, tags text[]);
INSERT INTO sm_vaults SELECT * FROM vaults_beta ON CONFLICT DO NOTHING;
ALTER TABLE upstreams ADD COLUMN hash_on_query_arg text, ADD COLUMN hash_fallback_query_arg text,
  ADD COLUMN hash_on_uri_capture text, ADD COLUMN hash_fallback_uri_capture text;
ALTER TABLE routes ADD COLUMN expression text, ADD COLUMN priority bigint;
ALTER TABLE targets ADD COLUMN cache_key text UNIQUE;
ALTER TABLE plugins ADD COLUMN instance_name text;""" + REGEX_PATHS

CORE_330 = "".join(
    f"ALTER TABLE {table} ADD COLUMN updated_at timestamp with time zone DEFAULT now();" for table in
    ("ca_certificates", "certificates", "consumers", "plugins", "snis", "targets", "upstreams", "workspaces",
     "clustering_data_planes")) + """
CREATE TABLE IF NOT EXISTS key_sets (
  id uuid PRIMARY KEY, name text UNIQUE, tags text[], ws_id uuid REFERENCES workspaces (id),
  created_at timestamp with time zone, updated_at timestamp with time zone);
CREATE TABLE IF NOT EXISTS keys (
  id uuid PRIMARY KEY, set_id uuid REFERENCES key_sets (id) ON DELETE CASCADE, name text UNIQUE, cache_key text UNIQUE,
  ws_id uuid REFERENCES workspaces (id), kid text, jwk text, pem jsonb, tags text[],
  created_at timestamp with time zone, updated_at timestamp with time zone);
CREATE INDEX IF NOT EXISTS clustering_data_planes_ttl_idx ON clustering_data_planes (ttl);"""

CORE_340 = """
DROP TABLE IF EXISTS ttls;
ALTER TABLE upstreams ADD COLUMN use_srv_name boolean DEFAULT false;
CREATE TABLE IF NOT EXISTS filter_chains (
  id uuid PRIMARY KEY, name text UNIQUE, enabled boolean DEFAULT true,
  route_id uuid REFERENCES routes (id) ON DELETE CASCADE, service_id uuid REFERENCES services (id) ON DELETE CASCADE,
  ws_id uuid REFERENCES workspaces (id), cache_key text UNIQUE, filters jsonb[], tags text[],
  created_at timestamp with time zone, updated_at timestamp with time zone);"""

REDIS_FIELDS = ("host", "port", "timeout", "username", "password", "database", "ssl", "ssl_verify", "server_name")


def redis_block(plugin):
    """Copies redis_host, ... of a plugin's configuration into a record `redis`."""
    pairs = ", ".join(f"'{field}', config->'redis_{field}'" for field in REDIS_FIELDS)
    return (f"UPDATE plugins SET config = config || jsonb_build_object('redis', jsonb_build_object({pairs})) "
            f"WHERE name = '{plugin}' AND NOT config ? 'redis';")


def redis_fields_away(plugin):
    names = ", ".join(f"'redis_{field}'" for field in REDIS_FIELDS)
    return f"UPDATE plugins SET config = config - ARRAY[{names}] WHERE name = '{plugin}' AND config ? 'redis_host';"


def functions_to_access(plugin):
    return (f"UPDATE plugins SET config = (config - 'functions') || jsonb_build_object('access', config->'functions') "
            f"WHERE name = '{plugin}' AND jsonb_array_length(coalesce(config->'functions', '[]')) > 0;"
            f"UPDATE plugins SET config = config - 'functions' WHERE name = '{plugin}';")


HTTP_LOG_HEADERS = """
UPDATE plugins SET config = jsonb_set(config, '{headers}', (
  SELECT jsonb_object_agg(k, CASE WHEN jsonb_typeof(v) = 'array' THEN v->0 ELSE v END)
  FROM jsonb_each(config->'headers') AS e (k, v)))
WHERE name = 'http-log' AND jsonb_typeof(config->'headers') = 'object' AND config->'headers' <> '{}';"""


def recorded(subsystem, *names):
    """Steps of before 2.8 that 000_base has already done."""
    return [(subsystem, name, (2, 8), "", None, None) for name in names]


NOTHING = "SELECT 1"

ALL = [
    ("core", "000_base", (2, 8), CORE_BASE, None, None),
    *recorded("core", "003_100_to_110", "004_110_to_120", "005_120_to_130", "006_130_to_140", "007_140_to_150",
              "008_150_to_200", "009_200_to_210", "010_210_to_211", "011_212_to_213", "012_213_to_220",
              "013_220_to_230", "014_230_to_270", "015_270_to_280"),
    ("core", "016_280_to_300", (3, 0), CORE_300, "DROP TABLE IF EXISTS vaults_beta", (3, 0)),
    ("core", "017_300_to_310", (3, 1), "", None, None),
    ("core", "018_310_to_320", (3, 2), "", None, None),
    ("core", "019_320_to_330", (3, 3), CORE_330, None, None),
    ("core", "020_330_to_340", (3, 4), CORE_340, None, None),
    ("core", "021_340_to_350", (3, 5), "ALTER TABLE clustering_data_planes ADD COLUMN labels jsonb", None, None),
    ("core", "022_350_to_360", (3, 6), "ALTER TABLE clustering_data_planes ADD COLUMN cert_details jsonb", None, None),
    ("core", "023_360_to_370", (3, 7), """
CREATE TABLE IF NOT EXISTS clustering_rpc_requests (
  id bigserial PRIMARY KEY, node_id uuid NOT NULL, reply_to uuid NOT NULL, ttl timestamp with time zone NOT NULL,
  payload json NOT NULL);
ALTER TABLE clustering_data_planes ADD COLUMN rpc_capabilities text[];""", None, None),
    ("core", "024_380_to_390", (3, 9), """
CREATE TABLE IF NOT EXISTS clustering_sync_version (version serial PRIMARY KEY);
CREATE TABLE IF NOT EXISTS clustering_sync_delta (
  version integer NOT NULL REFERENCES clustering_sync_version (version) ON DELETE CASCADE, type text NOT NULL,
  pk json NOT NULL, ws_id uuid NOT NULL, entity json);
CREATE INDEX IF NOT EXISTS clustering_sync_delta_version_idx ON clustering_sync_delta (version);""", None, None),
    ("acl", "000_base_acl", (2, 8), credentials("acls", '"group" text, cache_key text UNIQUE', "cache_key"), None, None),
    *recorded("acl", "002_130_to_140", "003_200_to_210", "004_212_to_213"),
    ("acme", "000_base_acme", (2, 8), "CREATE TABLE IF NOT EXISTS acme_storage (id uuid PRIMARY KEY, key text UNIQUE, "
     "value text, created_at timestamp with time zone, ttl timestamp with time zone)", None, None),
    ("acme", "001_280_to_300", (3, 0), "", None, None),
    ("acme", "002_320_to_330", (3, 3), "", None, None),
    ("acme", "003_350_to_360", (3, 6), "", NOTHING, (3, 7)),
    ("ai-proxy", "001_360_to_370", (3, 7), "", NOTHING, (3, 7)),
    ("basic-auth", "000_base_basic_auth", (2, 8), credentials("basicauth_credentials", "username text, password text",
                                                              "username"), None, None),
    *recorded("basic-auth", "002_130_to_140", "003_200_to_210"),
    *recorded("bot-detection", "001_200_to_210"),
    ("hmac-auth", "000_base_hmac_auth", (2, 8), credentials("hmacauth_secrets", "username text, secret text", "username"),
     None, None),
    *recorded("hmac-auth", "002_130_to_140", "003_200_to_210"),
    ("http-log", "001_280_to_300", (3, 0), "", HTTP_LOG_HEADERS, (3, 0)),
    *recorded("ip-restriction", "001_200_to_210"),
    ("jwt", "000_base_jwt", (2, 8), credentials("jwt_secrets", "key text, secret text, algorithm text, rsa_public_key text"),
     None, None),
    *recorded("jwt", "002_130_to_140", "003_200_to_210"),
    ("key-auth", "000_base_key_auth", (2, 8), credentials("keyauth_credentials", "key text, ttl timestamp with time zone"),
     None, None),
    *recorded("key-auth", "002_130_to_140", "003_200_to_210"),
    ("key-auth", "004_320_to_330", (3, 3), "", None, None),
    ("oauth2", "000_base_oauth2", (2, 8), OAUTH2_BASE, None, None),
    *recorded("oauth2", "003_130_to_140", "004_200_to_210", "005_210_to_211"),
    ("oauth2", "006_320_to_330", (3, 3), "ALTER TABLE oauth2_authorization_codes ADD COLUMN plugin_id uuid", None, None),
    ("oauth2", "007_320_to_330", (3, 3), "", None, None),
    ("opentelemetry", "001_331_to_332", (3, 6), "", NOTHING, (3, 6)),
    ("post-function", "001_280_to_300", (3, 0), "", functions_to_access("post-function"), (3, 0)),
    ("pre-function", "001_280_to_300", (3, 0), "", functions_to_access("pre-function"), (3, 0)),
    ("rate-limiting", "000_base_rate_limiting", (2, 8), METRICS.format("ratelimiting"), None, None),
    *recorded("rate-limiting", "003_10_to_112", "004_200_to_210"),
    ("rate-limiting", "005_320_to_330", (3, 3), "", None, None),
    ("rate-limiting", "006_350_to_360", (3, 6), redis_block("rate-limiting"), redis_fields_away("rate-limiting"), (3, 7)),
    ("response-ratelimiting", "000_base_response_rate_limiting", (2, 8), METRICS.format("response_ratelimiting"), None, None),
    ("response-ratelimiting", "001_350_to_360", (3, 6), redis_block("response-ratelimiting"),
     redis_fields_away("response-ratelimiting"), (3, 7)),
    ("session", "000_base_session", (2, 8), "CREATE TABLE IF NOT EXISTS sessions (id uuid PRIMARY KEY, session_id text "
     "UNIQUE, expires integer, data text, created_at timestamp with time zone, ttl timestamp with time zone)", None, None),
    *recorded("session", "001_add_ttl_index"),
    ("session", "002_320_to_330", (3, 3), "", None, None),
]


def known(minor):
    """The migrations a version ships, in order: [(subsystem, name, up, teardown or None)]."""
    found = []
    for subsystem, name, since, up, teardown, teardown_since in ALL:
        if minor < since:
            continue
        if teardown and minor < teardown_since:
            # Before it had a teardown, `up` did both.
            up, teardown = up + teardown if up else "", None
        found.append((subsystem, name, up, teardown))
    return found

"""`kong config db_export` and `parse`."""

import json
import os
import re

import psycopg2

from . import db, entities
from .errors import KongError
from .store import Store

PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./-]*")
WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


def scalar(value):
    """JSON is YAML; plain words go without quotes as Kong writes them."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    return json.dumps(value)


def lines(value, indent):
    """Block style YAML."""
    pad = "  " * indent
    pairs = value.items() if isinstance(value, dict) else [(None, item) for item in value]
    for name, item in pairs:
        start = f"{pad}{scalar(name)}:" if name is not None else f"{pad}-"
        if isinstance(item, (dict, list)) and item:
            inner = list(lines(item, indent + 1))
            if name is None:
                yield f"{pad}- {inner[0].lstrip()}"
                yield from inner[1:]
            else:
                yield start
                yield from inner
        else:
            yield f"{start} {scalar(item)}"


def without_nulls(value):
    if isinstance(value, dict):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def db_export(conf, version, plugins, path):
    if not conf.has_database:
        raise KongError("'kong config db_export' only works with a database.")
    if os.path.exists(path):
        raise KongError(f"{path} already exists. Will not overwrite it.")
    connection = db.connect_or_die(conf)
    try:
        whole = Store(connection, version, plugins).export()
    except psycopg2.Error as error:
        raise KongError("[postgres] " + db.reason(error)) from None
    finally:
        connection.close()
    document = {"_format_version": "3.0" if version.has(3, 0) else "1.1", "_transform": False}
    for name, items in whole.items():
        document[name] = [without_nulls({key: item["id"] if isinstance(item, dict) and key in
                                         entities.ENTITIES[name].refs() else item
                                         for key, item in entry.items()}) for entry in items]
    try:
        with open(path, "x", encoding="utf-8") as out:
            for line in lines(document, 0):
                out.write(line + "\n")
    except OSError as error:
        raise KongError(f"could not open {path} for writing: {error.strerror}") from None
    return 0


def parse(version, plugins, path):
    try:
        import yaml
    except ImportError:
        raise KongError("the stand-in needs the package python3-yaml for 'kong config parse'") from None
    # The name decides, and JSON is YAML too. Lua, which 2.8 takes, is not made by db_export.
    if not path.endswith(("json", "yml", "yaml")):
        raise KongError(f"Failed parsing:\nunknown file type: {path}. (Accepted types: "
                        f"{'json, yaml' if version.minor >= (3, 0) else 'json, lua, yaml'})")
    try:
        with open(path, encoding="utf-8") as source:
            document = yaml.safe_load(source)
    except OSError as error:
        raise KongError(f"Failed parsing:\n{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise KongError(f"Failed parsing:\nfailed parsing declarative configuration: {str(error).splitlines()[0]}") from None
    problems = []
    if not isinstance(document, dict):
        raise KongError("Failed parsing:\nfailed parsing declarative configuration: expected an object")
    if "_format_version" not in document:
        problems.append("in '_format_version': required field missing")
    for name, items in document.items():
        if name.startswith("_"):
            continue
        entity = entities.ENTITIES.get(name)
        if entity is None or version.minor < entity.since:
            problems.append(f"in '{name}': unknown field")
            continue
        for position, item in enumerate(items or (), 1):
            try:
                entities.check(entity, version.minor, {key: value for key, value in item.items()
                                                       if key not in entities.ENTITIES}, plugins)
            except entities.Invalid as invalid:
                problems.append(f"in '{name}':\n  - in entry {position} of '{name}':\n" +
                                "\n".join(f"    in '{field}': {text}" for field, text in invalid.fields.items()))
            except (AttributeError, TypeError):
                problems.append(f"in '{name}':\n  - in entry {position} of '{name}': expected a record")
    if problems:
        raise KongError("Failed parsing:\n" + "\n".join(problems))
    print("parse successful")
    return 0


def command(conf, version, plugins, options):
    if options.command == "db_export":
        return db_export(conf, version, plugins, options.words[0] if options.words else "kong.yml")
    if options.command == "parse":
        if not options.words:
            raise KongError("expected a declarative configuration file; see `kong config --help`")
        return parse(version, plugins, options.words[0])
    raise KongError(f"the stand-in has no 'kong config {options.command}'")

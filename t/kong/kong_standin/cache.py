"""The configuration a data plane keeps in its prefix."""

import gzip
import json
import os
import shutil


class Cache:
    """The last configuration, kept in the prefix. From 3.6 it is dropped when written by another minor."""

    def __init__(self, prefix, version, log):
        self.version, self.log = version, log
        self.folder = os.path.join(prefix, "dbless.lmdb")
        self.path = os.path.join(self.folder, "data.json.gz") if version.has(3, 0) \
            else os.path.join(prefix, "config.cache.json.gz")

    def load(self):
        """(configuration, hash) or None."""
        try:
            with gzip.open(self.path, "rt", encoding="utf-8") as stored:
                content = json.load(stored)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EOFError) as error:
            self.log("warn", f"unreadable configuration cache {self.path}: {error}")
            return None
        return content["config"], content["hash"]

    def tag_mismatch(self):
        """The tag found, when it makes the cache useless."""
        path = os.path.join(self.folder, "tag")
        if not self.version.has(3, 6) or not os.path.exists(self.path):
            return None
        try:
            with open(path, encoding="ascii") as stored:
                found = stored.read()
        except FileNotFoundError:
            found = ""
        return None if found == self.version.tag else found

    def wipe(self):
        shutil.rmtree(self.folder, ignore_errors=True)

    def store(self, config, config_hash):
        if self.version.has(3, 0):
            os.makedirs(self.folder, exist_ok=True)
            with open(os.path.join(self.folder, "tag"), "w", encoding="ascii") as tag:
                tag.write(self.version.tag)
        with gzip.open(self.path + ".new", "wt", encoding="utf-8", compresslevel=1) as out:
            json.dump({"config": config, "hash": config_hash}, out)
        os.replace(self.path + ".new", self.path)

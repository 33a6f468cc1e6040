"""The error that ends a command."""


class KongError(Exception):
    """Ends the command with `Error: ...` on stderr and exit code 1."""

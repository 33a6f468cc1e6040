"""A test double of the `kong` executable; see ../README.md."""

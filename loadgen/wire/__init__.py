"""The HTTP client for every server backend; it owns the stamps. Imported by commands only when
they need it, because aiohttp is heavy."""

from loadgen.wire.server import KEY_VARIABLES, Prepared, ServerBackend, WireOptions

__all__ = ["KEY_VARIABLES", "Prepared", "ServerBackend", "WireOptions"]

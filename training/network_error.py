"""The one error of this package."""


class NetworkError(ValueError):
    """A network that cannot be built as configured: which part, expected, found, next step."""

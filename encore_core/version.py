"""The version, apart from everything that is costly to import."""

__version__ = "0.1.0"

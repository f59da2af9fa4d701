"""Helpers with which setup.py and build_backend.py build the extension; not installed."""

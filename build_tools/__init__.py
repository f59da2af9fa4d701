"""What setup.py and build_backend.py need to build the extension; never installed."""

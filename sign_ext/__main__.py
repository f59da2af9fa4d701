"""`python -m sign_ext` is `sign-ext`."""

import sys

from sign_ext.cli import main

if __name__ == "__main__":
    sys.exit(main())

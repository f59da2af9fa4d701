"""The error that means "the command line is wrong", and the exit codes."""

OK = 0
FAILED = 1
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells count it


class UsageError(Exception):
    """A value on the command line that cannot be right; nothing has been done yet."""

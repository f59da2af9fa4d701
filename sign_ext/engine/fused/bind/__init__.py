"""From the instructions of a schedule to functions that run them, a file a kind of operation."""

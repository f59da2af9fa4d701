"""The paper's tables and figures, a module each, and the numbers that it publishes."""

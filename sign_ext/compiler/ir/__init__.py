"""The operations of a program, a file a kind, and the program itself. Imports `ops` only."""

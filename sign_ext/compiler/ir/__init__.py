"""The operations of a program, a file a kind, and the program itself.

It may import `ops` and `formatting`.
"""

"""Tables, figures and pages of results.

May import store, training, evaluation and everything below them; experiments and commands use it.
"""

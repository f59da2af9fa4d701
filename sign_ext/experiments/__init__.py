"""The paper's experiments: recipes for its tables and figures, the stages they share, the demo.

May import report and everything to its right in the package's order (store, training, evaluation,
augment, models, data, the core); only the commands import it.
"""

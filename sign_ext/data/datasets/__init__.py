"""The data sets of the paper and the bundled digits, a module each."""

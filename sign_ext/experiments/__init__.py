"""One module an experiment, each a short recipe over the parts of the package."""

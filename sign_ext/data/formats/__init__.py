"""The file formats that any data set may come in, a module each; may import sign_ext.data."""

"""`sign-ext demo`: the paper's method on real images in minutes, on one page; imports no recipe."""

"""`sign-ext demo`: the paper's loop on real images in minutes, and its page."""

"""The work that recipes are made of: networks, measurements, policy searches, costs."""

"""nn.Module → Program: trace → lower → fold → schedule, memory_plan.

It may import `ops`, `source_layer`, and the torch-free `errors` and `formatting`.
"""

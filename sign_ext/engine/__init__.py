"""How a step is executed: a trajectory and an engine for each backend, and which one runs a call.

`autograd` is in `trajectory`, `graphed`, `fused` and `onchip` under their names, the choice in
`backends`. Imports `compiler`, `ops` and the core's small modules (`settings`, `source_layer`, …).
"""

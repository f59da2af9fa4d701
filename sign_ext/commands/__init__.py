"""The commands of `sign-ext`: one module a command, imported only when it is asked for.

A command's module has `Options` (a dataclass: the options and their help), `EXAMPLES` (lines that
can be copied into a shell), a docstring (the command's help text) and `run(options) -> None`.
"""

COMMANDS: dict[str, str] = {
    "demo": "Do the whole job once, on small real images, and write a page about it.",
    "train": "Train a network and keep its best epoch.",
    "transform": "Apply SIGN to a data set with a trained network, and store the result.",
    "inspect": "Say what a store of transformed images is.",
    "verify": "Check a store of transformed images against its checksums.",
    "evaluate": "Measure a trained network on clean and corrupted test images.",
    "calibrate": "Find a step size: what each one does to the images.",
    "reproduce": "Reproduce the paper's tables and figures, its numbers beside ours.",
    "report": "Join results of `sign-ext reproduce` over seeds, and write their pages.",
    "bench": "Time SIGN on your own network and machine, and say what a set of images costs.",
    "info": "Say what is installed, what can run here, and what SIGN sees in a network.",
}

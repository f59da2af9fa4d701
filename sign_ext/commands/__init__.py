"""The commands of `sign-ext`: one module each, imported when needed. May import everything else.

A command's module has a docstring (the command's help text), `Options` (a dataclass of options and
their help), `EXAMPLES` (lines to copy into a shell) and `run(options) -> None`. It imports torch,
and what needs torch, inside functions only.
"""

# The commands as `sign-ext --help` lists them, with what each one does.
GROUPS: dict[str, dict[str, str]] = {
    "first steps": {
        "demo": "Run the whole method once, on drawings or your images; writes a page about it.",
        "info": "Show what is installed, what can run here, and what SIGN finds in a network.",
    },
    "daily work, in this order": {
        "train": "Train a network and keep its best epoch.",
        "calibrate": "Find a step size: show what each one does to the images.",
        "show": "Look at what SIGN does to a few of your images: a page or a picture.",
        "transform": "Apply SIGN to a data set with a trained network, and store the result.",
        "inspect": "Describe a store of transformed images.",
        "verify": "Check a store of transformed images against its checksums.",
        "export": "Write a store as files that anyone can open: PNG, NumPy, Hugging Face …",
        "evaluate": "Measure a trained network on clean and corrupted test images.",
        "attack": "Make adversarial images, and measure what is left of a network's accuracy.",
        "bench": "Time SIGN on your network and machine, and predict the time for a data set.",
    },
    "research": {
        "reproduce": "Reproduce the paper's tables and figures, its numbers next to ours.",
        "report": "Join results of `sign-ext reproduce` over seeds, and write their pages.",
    },
}
COMMANDS: dict[str, str] = {
    name: summary for group in GROUPS.values() for name, summary in group.items()
}
# How to go on with what Ctrl-C stopped, where the work done is kept.
CONTINUED: dict[str, str] = {
    "train": "the same command with --resume (without --overwrite) continues after the last whole "
    "epoch",
    "transform": "the same command continues with the shards that are missing",
    "attack": "with --out, the same command continues with the shards that are missing",
    "export": "the same command continues with the files that are missing",
    "reproduce": "the same command continues with the stages that are missing",
}

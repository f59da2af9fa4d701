"""
Large sets and several GPUs
===========================

A data set that does not fit in memory is transformed in *shards*, files of some images each. A
run that is killed continues where it was, and several processes share the work and write the same
bytes. This tutorial does it in miniature, and stops a run in the middle.
"""

# %%
# A source reads its images when they are needed
# ----------------------------------------------
# ``open_data`` takes the name of a data set, a folder with a sub-folder for each class,
# WebDataset tars such as ``photos-{000..013}.tar``, or a folder that Hugging Face's
# ``save_to_disk`` wrote. Nothing is decoded yet.

import tempfile
from pathlib import Path

import torch

from sign_ext import SignTransform, load_transformed
from sign_ext.data import open_data
from sign_ext.models import build_model
from sign_ext.store import StoreError, transform_to_store, verify

source = open_data("drawings", train_size=120, image_size=16)
print(f"{len(source)} images of {tuple(source.image_shape)}, known by {source.fingerprint[:12]}…")

torch.manual_seed(0)
model = build_model("basic_cnn", num_classes=10, image_shape=(3, 16, 16)).eval()
sign = SignTransform(model, steps=20, snapshots=(10, 20), step_size=300.0)

# %%
# A run, killed in the middle
# ---------------------------
# Shards of 30 images, in half precision: four of them. The run is stopped by force after 70
# images or so, as a pre-empted machine would be.

folder = Path(tempfile.mkdtemp()) / "store"


class Killed(Exception):
    """What stops the run here; on your machine it is a signal, a full disk, a dead node."""


def stop_late(done: int, total: int) -> None:
    """Raise once more than half of the image-steps are done."""
    if done > 0.6 * total:
        raise Killed


try:
    transform_to_store(sign, source, folder, shard_size=30, dtype="float16", progress=stop_late)
except Killed:
    print("killed; on disk:", sorted(path.name for path in folder.glob("*.safetensors")))

# %%
# The store is incomplete, and says so:

try:
    load_transformed(folder)
except StoreError as error:
    print(error)

# %%
# The same call again completes it
# --------------------------------
# The shards that are there are checked against their SHA-256 and kept; only the missing ones are
# made. Had the network, the data or an option changed, the call would say which, and refuse.

run = transform_to_store(sign, source, folder, shard_size=30, dtype="float16", say=print)
print(f"made {run.made} shards of {len(list(folder.glob('*.safetensors')))}")
print(verify(folder))

# %%
# Reading needs no memory for all of it
# -------------------------------------

store = load_transformed(folder)
print(store.steps, store.class_names[:3], len(store))

# %%
# Several processes, several GPUs, several machines
# -------------------------------------------------
# Start the same command under torchrun. Process r of n makes every n-th shard, on the GPU of its
# rank; no images are exchanged, and the bytes do not depend on n:
#
# .. code-block:: console
#
#    $ torchrun --nproc-per-node=8 -m -- sign_ext transform --checkpoint runs/phi --data photos \
#        --steps 100 --snapshots 50 100 --step-size 80 --dtype float16 --out /shared/store
#    $ torchrun --nnodes=4 --nproc-per-node=8 --rdzv-backend=c10d --rdzv-endpoint=HOST:29400 \
#        -m -- sign_ext transform …
#
# In Python, ``transform_to_store`` reads the same variables of the launcher. On one machine
# without a launcher, ``sign-ext transform --memory 8GiB`` bounds what a process takes.
#
# What will it cost?
# ------------------
# ``sign-ext bench --model MODULE:FUNCTION --image-size 224`` estimates it on your machine, in a
# line. By hand: time a call, and multiply. A transform takes about K times a forward and a
# backward pass, without gradients of weights.

import time

images = source.read(0, 64).float()
sign.transform(images)  # the first call compiles
began = time.perf_counter()
sign.transform(images)
each = (time.perf_counter() - began) / len(images)
print(
    f"1.2 million images of this size and K = 20: {1.2e6 * each / 3600:.1f} hours on this machine"
)

# %%
# :doc:`/stores` is the manual of stores; :doc:`/scaling` does the arithmetic for ImageNet-21k on
# a thousand GPUs.

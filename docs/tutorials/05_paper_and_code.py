"""
Reading the paper with the code
===============================

`Signed Input Regularization <https://arxiv.org/abs/1911.07086>`_ describes SIGN in the language
of manifolds (Section 2.1) and in an algorithm of five lines. This tutorial computes both, by hand
and with the package, and checks that they agree.
"""

# %%
# A network in float64, so that rounding does not blur the comparison, and four images:

import torch
from torch import nn

from sign_ext import SignTransform, iterative_sign, jacobian, pullback_of_ones, pushforward
from sign_ext.data import load_data

torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 8, 3, stride=2, padding=1),
    nn.Softplus(),  # smooth, unlike ReLU: derivatives exist everywhere
    nn.Flatten(),
    nn.Linear(8 * 8 * 8, 6),
    nn.Softplus(),
    nn.Linear(6, 10),
)
model.double().eval()
data = load_data("drawings", train_size=10, test_size=10, image_size=16)
p = data.train.images[:4].double()

# %%
# Φ, a map between manifolds
# --------------------------
# Section 2.1 takes a trained network up to its last layer before the logits as a map Φ from
# images to features. The package finds that layer: the input of the final linear one.

features = model[:-1]
print(SignTransform(model).source_layer(p))

# %%
# Eq. 1–5: the push-forward
# -------------------------
# A tangent vector X at p says in which direction the image moves. Φ\ :sub:`*` says how its features
# then move, (Φ\ :sub:`*`\ X)\ :sup:`a` = Σ\ :sub:`i` ξ\ :sup:`i` ∂Φ\ :sup:`a`/∂x\ :sup:`i`. A
# finite difference shows it:

tangent = torch.randn_like(p)
moved = pushforward(model, p, tangent)
step = 1e-4
difference = (features(p + step * tangent) - features(p - step * tangent)) / (2 * step)
print(f"push-forward and finite difference agree to {(moved - difference).abs().max():.1e}")

# %%
# Eq. 6: the Jacobian
# -------------------
# The matrix of all ∂Φ\ :sup:`a`/∂x\ :sup:`i`, one for each image. The push-forward is its product
# with a tangent:

matrices = jacobian(model, p).flatten(2)
print(f"{tuple(matrices.shape)}: images, features, pixels")
print(torch.allclose(torch.einsum("nai,ni->na", matrices, tangent.flatten(1)), moved))

# %%
# The image's variables are re-weighted
# -------------------------------------
# SIGN asks how much each pixel moves all features together: δ\ :sup:`i` = Σ\ :sub:`a`
# ∂Φ\ :sup:`a`/∂x\ :sup:`i`. These are the columns' sums, the pull-back of the covector of ones, and
# the gradient of ΣΦ. The last is how it is computed: one backward pass, and no Jacobian.

delta = pullback_of_ones(model, p)
print(torch.allclose(delta.flatten(1), matrices.sum(1)))

x = p.clone().requires_grad_()
(gradient,) = torch.autograd.grad(features(x).sum(), x)
print(torch.allclose(delta, gradient))

import matplotlib.pyplot as plt

figure, grid = plt.subplots(2, 4, figsize=(6, 3))
for (above, below), image, change in zip(grid.T, p, delta, strict=True):
    above.imshow(image.permute(1, 2, 0).byte())
    below.imshow((127.5 * (1 + change / change.abs().max())).permute(1, 2, 0).byte())
    for axes in (above, below):
        axes.set(xticks=[], yticks=[])
grid[0, 0].set_ylabel("p")
grid[1, 0].set_ylabel("δ, untrained Φ")
figure.tight_layout()
plt.show()

# %%
# Algorithm 1
# -----------
# K times: δ at the current image, added to it. That is all of it:


def algorithm_1(p: torch.Tensor, steps: int, step_size: float) -> torch.Tensor:
    """Return p*_K."""
    p_star = p.clone()
    for _ in range(steps):
        x = p_star.requires_grad_()
        (delta,) = torch.autograd.grad(features(x).sum(), x)
        p_star = p_star.detach() + step_size * delta
    return p_star


by_hand = algorithm_1(p, steps=20, step_size=50.0)
ours = iterative_sign(model, p, steps=20, step_size=50.0)
print(
    f"they differ by {(ours - by_hand).abs().max():.1e}, δ moved by {(by_hand - p).abs().max():.1f}"
)

# %%
# The paper's equation has no step size, that is 1; what that means depends on the network's
# scale, so ours is an option, and ``calibrate`` proposes one.
#
# What the text leaves open is an option
# --------------------------------------
# "A similar approach to the momentum method" may mean a velocity, and δ may be taken at the
# current image or always at p:

for options in ({}, {"momentum": 0.9}, {"linearize_at": "input"}):
    result = iterative_sign(model, p, steps=20, step_size=50.0, **options)
    print(f"{options or 'as printed'}: rms change {(result - p).square().mean().sqrt():.2f}")

# %%
# Two versions from one trajectory
# --------------------------------
# "Two different versions" with K = 50 and 100 need 100 steps, not 150:

versions = iterative_sign(model, p, steps=100, snapshots=(50, 100), step_size=50.0)
print({k: f"{(v - p).square().mean().sqrt():.2f}" for k, v in versions.items()})

# %%
# Does it regularise?
# -------------------
# The paper's tables compare at equal epochs, where SIGN's training set is three times as large
# and gets three times as many gradient steps. :doc:`/results/README` has our results, at equal
# epochs and at equal steps; :doc:`/paper` lists every choice that the paper leaves open, and
# ours.

"""The experiments' names, apart from the registry: the command line reads them without torch."""

from __future__ import annotations

EXPERIMENTS: dict[str, str] = {
    "figure1": "mixup's wrong labels, in a computed example in the plane",
    "figure2": "the push-forward and p → p*, in the same example",
    "phi_answers": "whether Φ predicts p* better than p (Section 1)",
    "table1": "accuracy by class on CIFAR-10",
    "figure3": "CIFAR-10 images before and after SIGN",
    "isic": "AUC on skin lesions (Section 3.1)",
    "figure4": "skin lesions before and after SIGN",
    "figure5": "t-SNE maps and compactness of features",
    "delta_only": "accuracy from δ without the image (Section 3.1)",
    "table2": "aleatoric uncertainty",
    "table3": "out-of-distribution images, Tiny ImageNet",
    "table5": "robustness to pixels turned off and to noise",
    "figure6": "what the corruptions look like",
    "table4": "SIGN's images of MobileNetV2 train NASNetMobile",
    "inputs_used": "whether SIGN makes networks use fewer inputs (Sections 1 and 3.3)",
    "cancel_attack": "whether SIGN cancels an adversarial perturbation (Section 4)",
    "sign_at_inference": "trained networks on p* instead of p (not in the paper)",
    "step_size": "accuracy and robustness against step size and K (not in the paper)",
    "controls": "SIGN against what lacks one of its properties (not in the paper)",
    "field": "SIGN against what is in use today, AdvProp too (not in the paper)",
    "slice_a": "a slice of the verdict: SIGN, noise, mixup and classical",
    "slice_b": "a slice: SIGN alone, and on top of learned augmentation",
    "slice_c": "a slice: networks with an uncertainty head",
    "slice_d": "a slice: the paper's other sentences, on what slice A has made",
}

# Those that decide nothing. A scale that is made for a few experiments can run them, too, and does
# not name them: its results of before there were these would not be joined with later ones.
DESCRIBING = ("slice_d",)

"""Hugging Face's Trainer with a ResNet, on one of its data sets joined with the store."""

import torch
from datasets import load_dataset
from torchvision.transforms import v2
from transformers import ResNetConfig, ResNetForImageClassification, Trainer, TrainingArguments

from sign_ext import load_transformed

photos = load_dataset("imagefolder", data_dir="photos")
normalize = v2.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
train = load_transformed("store").join(photos["train"], transform=normalize, value_range=1)


def collate(rows):
    """Make what the model's forward pass takes."""
    images, labels = zip(*rows, strict=True)
    return {"pixel_values": torch.stack(images), "labels": torch.tensor(labels)}


names = photos["train"].features["label"].names
config = ResNetConfig(
    embedding_size=16,
    hidden_sizes=[16, 32],
    depths=[1, 1],
    layer_type="basic",
    id2label=dict(enumerate(names)),
    label2id={name: label for label, name in enumerate(names)},
)  # or ResNetForImageClassification.from_pretrained("microsoft/resnet-18", …)
trainer = Trainer(
    ResNetForImageClassification(config),
    TrainingArguments(
        "hf_run",
        num_train_epochs=2,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    ),
    train_dataset=train,
    data_collator=collate,
)
result = trainer.train()
print(f"{result.global_step} steps on {len(train)} images, loss {result.training_loss:.3f}")

"""The formats that any data set may come in: image folder, WebDataset, Hugging Face, Parquet."""

"""The pure half of reading a corpus: what a modality is, how its content is found, decoded and refused."""

"""FAISS indexes, neighbour search and the pair kernel."""

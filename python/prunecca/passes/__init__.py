"""Forward passes of several models over the same data, and what becomes of the activations of each batch."""

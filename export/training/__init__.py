"""Training: objects, scenes and pairs rendered on the fly, and the loop over them."""

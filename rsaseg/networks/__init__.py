"""RSANet and its weights."""

"""Cost: what an optimizer takes in bytes, memory and time."""

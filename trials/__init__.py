"""The queue: studies and trials, where they are kept, and the workers that run them."""

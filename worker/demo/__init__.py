"""The demo: a private Redis, a real worker with a trained model, and two dozen documents written for it."""

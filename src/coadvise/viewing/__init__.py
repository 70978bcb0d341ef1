"""A page on this machine that shows what a trained model, its tokens and its teachers see in an image."""

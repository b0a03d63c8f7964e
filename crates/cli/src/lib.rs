//! Command line of lowbit: quantize, lower, run and inspect PyTorch models.

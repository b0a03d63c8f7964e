//! Writes ExecuTorch .pte programs.

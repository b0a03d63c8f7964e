//! The stages: `prepare → calibrate → convert → evaluate → lower`. Each consumes the one before.

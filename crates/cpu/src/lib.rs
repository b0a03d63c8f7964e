//! CPU executor of lowbit: plans a program once, then runs it.

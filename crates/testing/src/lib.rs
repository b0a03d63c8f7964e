//! Conformance kit that every lowbit backend runs.

"""Checks of Core ML packages without Core ML: by Apple's own definitions in coremltools, on any system. See README.md."""

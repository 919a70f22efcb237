"""The fault study: lines that are killed at every file operation, and disks that fill, fail or cannot be written."""

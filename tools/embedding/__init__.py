"""Features of images: computed, written to a file, and shown as a page."""

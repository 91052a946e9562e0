"""Upscaling of image files with their EXIF data, colour profile, alpha channel and 16-bit values."""

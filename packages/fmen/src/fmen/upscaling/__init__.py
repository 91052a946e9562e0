"""Upscaling images with everything that belongs to them: EXIF data, colour profile, alpha channel, 16 bits."""

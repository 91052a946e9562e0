"""Challenge submissions: building, checking, and the archive for the evaluation server."""

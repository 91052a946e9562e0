"""The plots of bench and report."""

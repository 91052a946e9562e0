"""Train, validate, submit and use FMEN: the application that ties the three libraries together."""

__version__ = "0.1.0"

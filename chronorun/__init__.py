"""Train Mixture-of-Experts language models whose expert population is managed while they train."""

__version__ = "0.1.0"

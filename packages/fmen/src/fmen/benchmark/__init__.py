"""The challenge table: complexity, runtime and memory of networks, measured side by side."""

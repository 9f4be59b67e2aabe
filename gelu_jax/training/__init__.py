"""Training: data sources, configs, the step, the loop, checkpoints."""

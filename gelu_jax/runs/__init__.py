"""Runs on disk: one run's record, resuming, trackers, its model, and the executors that do runs."""

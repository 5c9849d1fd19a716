"""What a run stands on: processes, files, locks, signals, imports, HTTP manners, progress, time."""

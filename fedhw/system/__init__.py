"""What every part stands on: files, locks, logs, the terminal, the service manager."""

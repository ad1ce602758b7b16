"""Several workers on one data port, and the parent process that keeps what they share."""

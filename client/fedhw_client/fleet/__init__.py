"""The device's part in a fleet: enrolment, reports, releases, secure sums."""

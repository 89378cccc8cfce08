"""What agent, controller and command line share: vocabulary, validation, errors, telemetry set-up."""

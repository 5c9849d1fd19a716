"""The shipped configs, found as files of this package when installed from a wheel (`grpo run tiny.yaml`)."""

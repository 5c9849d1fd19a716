"""What a run says of itself: metrics, alarms, health, profiles."""

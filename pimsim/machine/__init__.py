"""When: calendar, channel, controller ASIC and the two engines."""

"""Does a bundle do on this device what it says? `golden` compares, `latency` and `power` measure, `verify`
puts it together, `report` writes it down so that it can be sent to somebody."""

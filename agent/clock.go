package main

import (
	"strconv"
)

// secondsSinceBoot is the kernel's monotonic clock: near zero when the kernel started, as in its log.
func secondsSinceBoot() string {
	return strconv.FormatFloat(monotonic().Seconds(), 'f', 3, 64)
}

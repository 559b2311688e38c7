package inventory

import (
	"time"

	"golang.org/x/sys/unix"
)

// suspended is how long the machine has been suspended since its boot, 0 if it is unknown.
func suspended() time.Duration {
	var boot, mono unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &boot) != nil || unix.ClockGettime(unix.CLOCK_MONOTONIC, &mono) != nil {
		return 0 // then only a late canary shows it
	}
	return time.Duration(boot.Nano() - mono.Nano())
}

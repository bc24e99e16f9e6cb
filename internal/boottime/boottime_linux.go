package boottime

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// Now is the time since the machine started, the time that it slept included.
func Now() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		// Every Linux since 2.6.39 has it. Another clock instead would have another origin, and end leases early.
		panic(fmt.Sprintf("reading CLOCK_BOOTTIME: %v", err))
	}
	return time.Duration(now.Nano())
}

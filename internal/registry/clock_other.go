//go:build !linux

package registry

import "time"

var processStart = time.Now()

// bootTime is Go's monotonic clock where there is no clock that is known to go on while the machine sleeps. A server
// there must not sleep: a leader that did would not notice how late it is.
func bootTime() time.Duration { return time.Since(processStart) }

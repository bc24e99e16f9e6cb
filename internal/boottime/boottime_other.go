//go:build !linux

package boottime

import "time"

var processStart = time.Now()

// Now is Go's monotonic clock where there is no clock that is known to go on while the machine sleeps. A server or node
// there must not sleep: a leader that did would not notice how late it is, nor a node that its lease is over.
func Now() time.Duration { return time.Since(processStart) }

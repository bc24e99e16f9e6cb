//go:build !linux

package upstream

import (
	"net"
	"time"
)

// giveUpOn does nothing where the kernel has no such setting.
func giveUpOn(*net.TCPConn, time.Duration) error { return nil }

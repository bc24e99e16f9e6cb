//go:build !linux

package tcp

import (
	"net"
	"time"
)

// GiveUpOn does nothing where the kernel has no such setting: keepalive probes, and deadlines, then have to find a dead
// connection.
func GiveUpOn(*net.TCPConn, time.Duration) error { return nil }

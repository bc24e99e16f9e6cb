//go:build !linux

package tcp

import "net"

// Raw does nothing where the system's calls are only to be made through its library.
func Raw(conn *net.TCPConn) net.Conn { return conn }

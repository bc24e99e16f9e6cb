// Package tcp has what Go's net does not offer for connections: settings, and cheaper reads and writes.
package tcp

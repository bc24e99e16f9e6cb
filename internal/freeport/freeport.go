// Package freeport finds TCP ports on loopback for programs that cannot listen on
// port 0, since others must know their address before they start, or after a
// restart.
package freeport

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
)

// Ports that are given out: below those that the kernel takes for connections of
// its own choice (32768 on on Linux, 49152 on elsewhere), one of which could take
// the port before who was given it listens, or while that is down.
const first, ports = 20_000, 12_000

// given are the claims of this process, which end with it. Whoever was given a
// port may not listen on it yet, or not just now, so that to listen shows too
// little: the claim of a port is a UDP socket of its number, which one process
// alone can have, and which takes nothing from TCP.
var given struct {
	sync.Mutex
	next   int // counts the ports tried, from a place by chance: whoever was given ports may live longer than the process that claimed them
	claims []net.PacketConn
}

func init() { given.next = rand.IntN(ports) }

// Addrs returns n addresses on loopback, host:port, on which nobody listened a
// moment ago, and which no other call returns while this process lives, neither
// here nor in another process. A process can be given 12,000. Each costs it a file
// descriptor.
func Addrs(n int) ([]string, error) {
	given.Lock()
	defer given.Unlock()
	var out []string
	for range n {
		addr, err := addr()
		if err != nil {
			return nil, err
		}
		out = append(out, addr)
	}
	return out, nil
}

// addr is one address. given is locked.
func addr() (string, error) {
	var last error
	for range ports {
		addr := fmt.Sprintf("127.0.0.1:%d", first+given.next%ports)
		given.next++
		claim, err := claimed(addr)
		if err == nil {
			given.claims = append(given.claims, claim)
			return addr, nil
		}
		if !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, fs.ErrPermission) { // of the address, and not of this process
			return "", fmt.Errorf("looking for a free port, after %d that this process was given: %w; it needs loopback, and a file descriptor for each port (ulimit -n)", len(given.claims), err)
		}
		last = err
	}
	return "", fmt.Errorf("no free port on 127.0.0.1 from %d to %d, of which this process was given %d: %w; end programs that listen there",
		first, first+ports-1, len(given.claims), last)
}

// claimed is the claim of an address on which nobody listens.
func claimed(addr string) (net.PacketConn, error) {
	claim, err := net.ListenPacket("udp", addr)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", addr)
	if err == nil {
		err = l.Close()
	}
	if err != nil {
		return nil, errors.Join(err, claim.Close())
	}
	return claim, nil
}

package process

import (
	"fmt"
	"net"
	"os"
	"sync/atomic"
)

// Ports that are given out: below those that the kernel takes for connections of
// its own choice, one of which would keep a program that was killed from
// listening again.
const (
	firstPort, ports = 20_000, 12_000
	// stride sets processes that run beside each other, whose ids are near, far apart: each gives out ports from a place
	// of its own on, none twice, since whoever was given one may not listen on it yet, or not just now.
	stride = 1021
)

// given counts the ports that this process has tried.
var given atomic.Int64

// FreeAddrs returns n addresses on loopback, host:port, on which nobody listened a
// moment ago, and which no other call of this process has returned.
func FreeAddrs(n int) ([]string, error) {
	var out []string
	for range n {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		out = append(out, addr)
	}
	return out, nil
}

func freeAddr() (string, error) {
	const tries = 1000 // most ports are free
	var last error
	for range tries {
		port := firstPort + (int64(os.Getpid())*stride+given.Add(1))%ports
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return l.Addr().String(), l.Close()
		}
		last = err
	}
	return "", fmt.Errorf("no free port on 127.0.0.1 in %d tries: %w", tries, last)
}

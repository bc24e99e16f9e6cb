package process

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Ports that are given out: below those that the kernel takes for connections of
// its own choice, one of which would keep a program that was killed from
// listening again.
const (
	firstPort, lastPort = 20_000, 32_000
	// portTries is for how many ports one is asked that is free: most of them are.
	portTries = 100
)

// FreeAddrs returns n addresses on loopback, host:port, that nobody listened on a
// moment ago. All are held until the last is known, so that they differ.
func FreeAddrs(n int) ([]string, error) {
	var out []string
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close() // never accepted anything
		}
	}()
	for range n {
		l, err := listen()
		if err != nil {
			return nil, err
		}
		held = append(held, l)
		out = append(out, l.Addr().String())
	}
	return out, nil
}

func listen() (net.Listener, error) {
	var last error
	for range portTries {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", firstPort+rand.IntN(lastPort-firstPort)))
		if err == nil {
			return l, nil
		}
		last = err
	}
	return nil, fmt.Errorf("no free port on 127.0.0.1 in %d tries: %w", portTries, last)
}

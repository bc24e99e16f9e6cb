package peer

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

// crowd is the connections in their handshake, the oldest first. When it is full the one that goes is the oldest of the
// network from which the most have come: a true server is through within milliseconds, and whoever holds many connections
// open in silence only ends those of their own.
type crowd struct {
	mu      sync.Mutex // guards members
	members []*socket
}

// enter takes a connection in, and returns the one that has to go for it, nil if none.
func (c *crowd) enter(s *socket) (out *socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.members) >= maxHandshakes {
		from := make(map[netip.Prefix]int, maxHandshakes)
		most := 0
		for _, m := range c.members {
			from[m.network()]++
			most = max(most, from[m.network()])
		}
		at := slices.IndexFunc(c.members, func(m *socket) bool { return from[m.network()] == most })
		out = c.members[at]
		c.members = slices.Delete(c.members, at, at+1)
	}
	c.members = append(c.members, s)
	return out
}

// leave takes it out, if it is in.
func (c *crowd) leave(s *socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.members = slices.DeleteFunc(c.members, func(m *socket) bool { return m == s })
}

func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.members)
}

// wholeNetwork is how many bits of an IPv6 address one customer has to themselves.
const wholeNetwork = 64

// network is where the other side is: its address, of IPv6 the network that it can choose addresses from.
func (s *socket) network() netip.Prefix {
	tcp, ok := s.RemoteAddr().(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap()
	p, err := ip.Prefix(min(ip.BitLen(), wholeNetwork))
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

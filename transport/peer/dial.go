package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// maxDialTimeout bounds Config.DialTimeout, and is its default: a server that cannot be reached within a second
// is no use to an election.
const maxDialTimeout = time.Second

// resolver is the part of net.Resolver that dialing needs.
type resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

// dialer connects to "host:port" and resolves the name at every dial, since a container that comes back may have
// another address. Resolving is within the deadline of the dial: looking up the name of a stopped container was
// measured to block for 10 s. Where it fails, the address at which the name last answered is tried.
type dialer struct {
	timeout  time.Duration
	resolver resolver

	mu       sync.Mutex // guards lastGood
	lastGood map[string]netip.Addr
}

// dial connects and says which address it reached.
func (d *dialer) dial(ctx context.Context, addr string) (net.Conn, netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("peer address %q is not host:port: %w", addr, err)
	}
	ips, err := d.resolve(ctx, host)
	if err != nil {
		return nil, netip.Addr{}, fmt.Errorf("resolving %q of peer %s within %v: %w", host, addr, d.timeout, err)
	}
	var failed error
	for i, ip := range ips {
		conn, err := d.dialOne(ctx, net.JoinHostPort(ip.String(), port), len(ips)-i)
		if err == nil {
			return conn, ip, nil
		}
		failed = errors.Join(failed, err)
	}
	return nil, netip.Addr{}, fmt.Errorf("dialing peer %s within %v: %w", addr, d.timeout, failed)
}

// dialOne tries one of the addresses still left and takes its share of the time, so that one that swallows
// packets does not use up that of the next.
func (d *dialer) dialOne(ctx context.Context, addr string, left int) (net.Conn, error) {
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(deadline)/time.Duration(left))
		defer cancel()
	}
	nd := net.Dialer{KeepAliveConfig: keepAlive}
	return nd.DialContext(ctx, "tcp", addr)
}

// resolve returns at least one address of host.
func (d *dialer) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{ip}, nil
	}
	d.mu.Lock()
	last, known := d.lastGood[host]
	d.mu.Unlock()
	if known { // leave time to dial it
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d.timeout/2)
		defer cancel()
	}
	ips, err := d.resolver.LookupNetIP(ctx, "ip", host)
	switch {
	case err == nil && len(ips) > 0:
		return ips, nil
	case known:
		return []netip.Addr{last}, nil
	case err == nil:
		return nil, errors.New("the name has no address")
	}
	return nil, err
}

// remember notes that the server known as addr answered at ip. Only after its handshake: an address may have
// passed to another server.
func (d *dialer) remember(addr string, ip netip.Addr) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil || host == ip.String() {
		return
	}
	d.mu.Lock()
	d.lastGood[host] = ip
	d.mu.Unlock()
}

// connect dials a server and shakes hands with it. The connection is one of Mux.sockets then.
func (m *Mux) connect(ctx context.Context, addr string, purpose byte) (*socket, error) {
	conn, ip, err := m.dialer.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	want := m.peerID(addr)
	clientSide := plain
	if m.cfg.Certs != nil {
		clientSide = func(conn net.Conn) *tls.Conn { return tls.Client(conn, m.cfg.Certs.Dial(want)) }
	}
	s, err := m.adopt(conn, clientSide)
	if err != nil {
		return nil, err
	}
	if err := m.shake(ctx, s, addr, want, purpose); err != nil {
		_ = s.Close()
		return nil, err
	}
	m.dialer.remember(addr, ip)
	return s, nil
}

// shake does the dialing side of a handshake.
func (m *Mux) shake(ctx context.Context, s *socket, addr, want string, purpose byte) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = s.SetDeadline(time.Unix(1, 0)) })
	a, err := m.introduce(s, addr, want, purpose)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if ctx.Err() != nil {
			err = errors.Join(ctx.Err(), err)
		}
		return fmt.Errorf("handshake with %s: %w; check that this is the peer address of a server of this cluster, and that both are under TLS or neither is", addr, err)
	}
	if a.code == answerRefused {
		return &RefusedError{Addr: addr, ID: shown(a.id), Reason: shown(a.text)}
	}
	return m.judgeAnswer(addr, want, a)
}

// introduce sends a hello and reads the answer. Under TLS an answer is of the server whose certificate was shown.
func (m *Mux) introduce(s *socket, addr, want string, purpose byte) (a answer, err error) {
	if s.tls != nil {
		if err := s.tls.Handshake(); err != nil {
			return a, err
		}
	}
	h := hello{purpose: purpose, from: m.cfg.Identity.ID, cluster: m.cfg.Identity.Cluster(), target: want, addr: addr}
	_, err = s.Write(h.encode())
	// A refusal can be there to read although the connection is closed for writing.
	if got, readErr := readAnswer(s); readErr == nil {
		a, err = got, nil
	} else if err == nil {
		err = readErr
	}
	if err != nil || s.tls == nil || a.code == answerRefused {
		return a, err
	}
	who, err := m.cfg.Certs.Reached(s.tls.ConnectionState())
	if err == nil && a.id != who.ID {
		err = fmt.Errorf("it calls itself %q and its certificate is that of %s", shown(a.id), who)
	}
	return a, err
}

// judgeAnswer checks what the other server said of itself, although it accepted.
func (m *Mux) judgeAnswer(addr, want string, a answer) error {
	mine := m.cfg.Identity.Cluster()
	switch {
	case mine != "" && a.cluster != "" && a.cluster != mine:
		return &RefusedError{Addr: addr, ID: a.id, Reason: otherCluster(a.cluster, mine)}
	case want != "" && a.id != want:
		return &RefusedError{Addr: addr, ID: a.id, Reason: fmt.Sprintf("server %q was expected there; check the list of servers", want)}
	}
	return nil
}

func (m *Mux) peerID(addr string) string {
	if m.cfg.PeerID == nil {
		return ""
	}
	return m.cfg.PeerID(addr)
}

func otherCluster(theirs, mine string) string {
	return fmt.Sprintf("it belongs to cluster %q, this server to %q; check the list of servers, and never copy a data directory", theirs, mine)
}

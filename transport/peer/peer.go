// Package peer is the one port between servers. Raft's streams and the calls of the registry (forwarding, confirmed
// indexes, status) share it; the handshake at the start of every connection says which of the two it is for, who
// dials, and of which cluster both are.
//
// With [Config.Certs] every connection is under TLS 1.3, both sides show a certificate of the cluster with the role server,
// and the id in the handshake is the one in it. Without, nobody is authenticated: the port belongs on loopback then, or
// behind --insecure on a network of which every member may control the cluster. Either way what raft is sent passes the
// check of its form before it is decoded, and a [Guard] after that.
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

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/scope-registry/scope-registry/internal/access"
	"github.com/scope-registry/scope-registry/internal/tcp"
)

// keepAlive finds a dead peer on a connection that is idle, deadAfter one that has sent bytes unconfirmed. The
// numbers are those of a call connection's signs of life, see aliveEvery and silentFor.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 4 * time.Second, Interval: 3 * time.Second, Count: 2}

const deadAfter = 10 * time.Second

// Identity is what a server says of itself in handshakes.
type Identity struct {
	// ID is the server's id, at most 512 bytes. It does not change while the server runs.
	ID string
	// Cluster returns the cluster id, "" while it is unknown, which is before bootstrap. It is called at each
	// handshake, by several goroutines at once, and must not block.
	Cluster func() string
}

// Certs shows others who this server is, and tells who they are. Its methods are called at every connection, by several
// goroutines at once.
type Certs interface {
	// Listen is the configuration of accepted connections; with required nobody gets in without a certificate.
	Listen(required bool) *tls.Config
	// Dial is the configuration of one connection to a server of the cluster, the one of that id unless it is "".
	Dial(id string) *tls.Config
	// Of is who has dialed an accepted connection. The error says that it is nobody of this cluster.
	Of(st tls.ConnectionState) (who access.Who, ok bool, err error)
	// Reached is who was reached over a connection that was dialed.
	Reached(st tls.ConnectionState) (access.Who, error)
}

// Config are the facts of a Mux. Listen, Identity and Handler are needed.
type Config struct {
	// Listen is the host:port to bind.
	Listen string
	// Advertise is the host:port the other servers have for this one in their lists, raft's local address. It is
	// compared and never resolved: a connection that was dialed as anything else is refused. Port 0 stands for the
	// port that was bound, "" for the address that was bound.
	Advertise string
	// Identity is what this server says of itself.
	Identity Identity
	// Handler serves calls. from is the id the calling server gave, payload belongs to the handler. An error goes
	// back as its text, in a *RemoteError. ctx ends when the caller gives up, the connection ends or the Mux is
	// closed; the handler must return then. It is called by many goroutines at once.
	Handler func(ctx context.Context, from string, kind Kind, payload []byte) ([]byte, error)
	// PeerID, when set, returns the id of the server that should be at an address, "" where that is not known.
	// Another server there is refused. It is called at each dial and must not block.
	PeerID func(addr string) string
	// Certs is nil on a port without TLS.
	Certs Certs
	// Refuse, when set, says why a server is not to be served, "" where it is. It is asked for connections of raft; a
	// call is let in, so that the server can be told. It is called by several goroutines at once and must not block.
	Refuse func(id string) string
	// DialTimeout bounds resolving and connecting together; at most 1 s, which 0 stands for. The handshake has 4 s of its own.
	DialTimeout time.Duration
	// Logger may be nil.
	Logger hclog.Logger
}

// Mux is the port between servers: it accepts, dials and tells apart the connections of raft and those of calls.
type Mux struct {
	cfg       Config
	log       hclog.Logger
	ln        net.Listener
	advertise string
	dialer    *dialer
	stream    *stream

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine of the Mux

	greeting   crowd
	warnings   warner
	serverSide side

	mu       sync.Mutex // guards the rest
	closing  bool
	sockets  map[*socket]struct{}
	accepted int            // sockets past their handshake as the accepting side
	perPeer  map[string]int // the same by server id
	links    map[string]*dialedLink
}

// Open binds the port and starts to accept. Close ends everything.
func Open(cfg Config) (*Mux, error) {
	return open(cfg, net.DefaultResolver)
}

func open(cfg Config, r resolver) (*Mux, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if cfg.DialTimeout == 0 {
		cfg.DialTimeout = maxDialTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = hclog.NewNullLogger()
	}
	lc := net.ListenConfig{KeepAliveConfig: keepAlive}
	ln, err := lc.Listen(context.Background(), "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("listening for other servers on %s: %w; free the port or choose another", cfg.Listen, err)
	}
	m, err := start(cfg, ln, r)
	if err != nil {
		return nil, errors.Join(err, ln.Close())
	}
	return m, nil
}

// start runs a Mux on an open listener.
func start(cfg Config, ln net.Listener, r resolver) (*Mux, error) {
	advertise, err := advertiseAddr(cfg.Advertise, ln.Addr())
	if err != nil {
		return nil, err
	}
	m := &Mux{
		cfg: cfg, log: cfg.Logger, ln: ln, advertise: advertise,
		dialer:   &dialer{timeout: cfg.DialTimeout, resolver: r, lastGood: make(map[string]netip.Addr)},
		warnings: warner{log: cfg.Logger}, serverSide: plain,
		sockets: make(map[*socket]struct{}), perPeer: make(map[string]int), links: make(map[string]*dialedLink),
	}
	if cfg.Certs != nil {
		listen := cfg.Certs.Listen(true)
		m.serverSide = func(conn net.Conn) *tls.Conn { return tls.Server(conn, listen) }
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.stream = newStream(m)
	m.spawn(m.acceptLoop)
	return m, nil
}

func (cfg Config) check() error {
	switch {
	case cfg.Identity.ID == "" || len(cfg.Identity.ID) > maxString:
		return fmt.Errorf("server id %q has %d bytes, 1 to %d are needed", cfg.Identity.ID, len(cfg.Identity.ID), maxString)
	case cfg.Identity.Cluster == nil:
		return errors.New("no function for the cluster id was given; pass one that returns \"\" while it is unknown")
	case cfg.Handler == nil:
		return errors.New("no handler for calls was given; pass one, a server that serves no calls cannot be bootstrapped")
	case cfg.DialTimeout < 0 || cfg.DialTimeout > maxDialTimeout:
		return fmt.Errorf("dial timeout %v is out of range, 0 to %v are allowed", cfg.DialTimeout, maxDialTimeout)
	}
	return nil
}

// advertiseAddr fills in what only binding could tell.
func advertiseAddr(advertise string, bound net.Addr) (string, error) {
	if advertise == "" {
		return bound.String(), nil
	}
	host, port, err := net.SplitHostPort(advertise)
	if err != nil || host == "" || len(advertise) > maxString {
		return "", fmt.Errorf("advertised address %q is not host:port with a host of its own; write what the other servers dial", advertise)
	}
	if port == "0" {
		if _, port, err = net.SplitHostPort(bound.String()); err != nil {
			return "", err
		}
	}
	return net.JoinHostPort(host, port), nil
}

// Addr returns the address that was bound.
func (m *Mux) Addr() net.Addr { return m.ln.Addr() }

// StreamLayer returns the layer for raft's NetworkTransport, which must run with MaxRPCsInFlight 1. Connections of
// raft are refused until the first call of it. Closing the layer, as the transport does, ends raft's connections
// and leaves the calls alone.
func (m *Mux) StreamLayer() raft.StreamLayer {
	m.stream.start()
	return m.stream
}

// Close stops accepting, ends every connection and waits for every goroutine, handlers included. Calls in flight
// end with ErrOutcomeUnknown. It may be called twice.
func (m *Mux) Close() error {
	m.mu.Lock()
	first := !m.closing
	m.closing = true
	m.mu.Unlock()
	var err error
	if first {
		m.cancel()
		err = m.ln.Close()
		_ = m.stream.Close()
		for _, s := range m.pick(func(*socket) bool { return true }) {
			_ = s.Close()
		}
	}
	m.wg.Wait()
	return err
}

// spawn runs f in a goroutine that Close waits for. It is false when the Mux is closing.
func (m *Mux) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return false
	}
	m.wg.Go(f)
	return true
}

// side is a side of TLS over a connection, nil without TLS. It sends and receives nothing yet.
type side func(net.Conn) *tls.Conn

func plain(net.Conn) *tls.Conn { return nil }

// socket is one connection of a Mux, in the list of those to be closed with it.
type socket struct {
	net.Conn           // what is read and written: tls if there is one, else raw
	tls      *tls.Conn // nil without TLS
	raw      net.Conn
	mux      *Mux
	once     sync.Once // Close

	enrolled string // guarded by mux.mu: server id it is counted for, "" when dialed by this server
	raft     bool   // guarded by mux.mu: ends with raft's stream layer
}

// adopt takes a connection into the list. It closes it and fails when the Mux is closing.
func (m *Mux) adopt(conn net.Conn, secured side) (*socket, error) {
	if t, ok := conn.(*net.TCPConn); ok {
		if err := tcp.GiveUpOn(t, deadAfter); err != nil {
			m.log.Debug("setting the time after which a connection is dead failed", "remote", conn.RemoteAddr(), "error", err)
		}
	}
	s := &socket{Conn: conn, raw: conn, tls: secured(conn), mux: m}
	if s.tls != nil {
		s.Conn = s.tls
	} else if t, ok := conn.(*net.TCPConn); ok {
		s.Conn = tcp.Raw(t) // an entry takes a dozen small reads and writes
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		_ = conn.Close()
		return nil, fmt.Errorf("this server's peer port is closed: %w", net.ErrClosed)
	}
	m.sockets[s] = struct{}{}
	return s, nil
}

// Close implements net.Conn and takes the connection out of all counts. Under TLS it sends no word of it, which would wait
// for a side that does not read; the other side takes an end between two records for one.
func (s *socket) Close() (err error) {
	s.once.Do(func() {
		err = s.raw.Close()
		m := s.mux
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.sockets, s)
		if s.enrolled == "" {
			return
		}
		m.accepted--
		if m.perPeer[s.enrolled]--; m.perPeer[s.enrolled] == 0 {
			delete(m.perPeer, s.enrolled)
		}
	})
	return err
}

// setRaft marks a connection as one of raft's.
func (s *socket) setRaft() {
	s.mux.mu.Lock()
	defer s.mux.mu.Unlock()
	s.raft = true
}

// pick returns the connections that pass the filter.
func (m *Mux) pick(filter func(*socket) bool) (out []*socket) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for s := range m.sockets {
		if filter(s) {
			out = append(out, s)
		}
	}
	return out
}

// Expel ends the connections of raft that a server dialed: those it has from before it was refused.
func (m *Mux) Expel(id string) {
	for _, s := range m.pick(func(s *socket) bool { return s.raft && s.enrolled == id }) {
		_ = s.Close()
	}
}

// closeRaft ends the connections of raft.
func (m *Mux) closeRaft() {
	for _, s := range m.pick(func(s *socket) bool { return s.raft }) {
		_ = s.Close()
	}
}

func (m *Mux) warn(msg string, args ...any) { m.warnings.warn(msg, args...) }

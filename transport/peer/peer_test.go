package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/scope-registry/scope-registry/internal/freeport"
)

// cluster returns a function for Identity.Cluster.
func cluster(id string) func() string { return func() string { return id } }

// openMux opens a Mux on loopback and closes it with the test.
func openMux(t *testing.T, id string, edit func(*Config)) *Mux {
	t.Helper()
	cfg := Config{
		Listen: "127.0.0.1:0", Identity: Identity{ID: id, Cluster: cluster("c1")}, Handler: echo,
		Logger: hclog.New(&hclog.LoggerOptions{Name: id, Output: logWriter{t}, Level: hclog.Debug}),
	}
	if edit != nil {
		edit(&cfg)
	}
	m, err := Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// logWriter sends a server's log to the test's. The Mux is closed, and every goroutine of it over, before the
// test ends, so that nothing is logged too late.
type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (m *Mux) addr() string { return m.Addr().String() }

func wantRefused(t *testing.T, err error, says string) {
	t.Helper()
	var refused *RefusedError
	wantErr(t, err, ErrNotSent)
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), says) {
		t.Errorf("want a refusal that says %q, got %v", says, err)
	}
}

func TestCall(t *testing.T) {
	s1 := openMux(t, "s1", nil)
	s2 := openMux(t, "s2", func(c *Config) {
		c.Identity.Cluster = cluster("") // it has not met its cluster yet
		c.Handler = func(ctx context.Context, from string, kind Kind, payload []byte) ([]byte, error) {
			if kind == KindTransfer {
				return nil, fmt.Errorf("refused %s for %s", payload, from)
			}
			return echo(ctx, from, kind, payload)
		}
	})
	largest := make([]byte, MaxCallPayload)
	if _, err := s1.Call(t.Context(), s2.addr(), KindPropose, largest[:MaxCallPayload-100]); err != nil {
		t.Error(err)
	}
	body, err := s1.Call(t.Context(), s2.addr(), KindStatus, []byte("x"))
	if err != nil || string(body) != "s1 status x" {
		t.Errorf("%s, %v", body, err)
	}
	body, err = s2.Call(t.Context(), s1.addr(), KindHello, nil)
	if err != nil || string(body) != "s2 hello " {
		t.Errorf("%s, %v", body, err)
	}
	_, err = s1.Call(t.Context(), s2.addr(), KindTransfer, []byte("y"))
	var remote *RemoteError
	if !errors.As(err, &remote) || remote.Text != "refused y for s1" || remote.Addr != s2.addr() {
		t.Errorf("%v", err)
	}
	wantErr(t, err, nil)
	// An answer that does not fit is an error of the other side and harms no other call.
	_, err = s1.Call(t.Context(), s2.addr(), KindPropose, largest)
	if !errors.As(err, &remote) || !strings.Contains(remote.Text, "at most") {
		t.Errorf("%v", err)
	}
	_, err = s1.Call(t.Context(), s2.addr(), KindPropose, append(largest, 0))
	wantErr(t, err, ErrNotSent)
	for _, kind := range []Kind{0, 255} {
		_, err = s1.Call(t.Context(), s2.addr(), kind, nil)
		wantErr(t, err, ErrNotSent)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = s1.Call(ctx, s2.addr(), KindStatus, nil)
	wantErr(t, err, ErrNotSent, context.Canceled)
	if n := len(s1.pick(func(s *socket) bool { return s.enrolled == "" })); n != 1 {
		t.Errorf("%d connections were dialed for all of this", n)
	}
}

func TestManyCallsShareAConnection(t *testing.T) {
	const calls = 256
	var arrived atomic.Int32
	all := make(chan struct{})
	s1 := openMux(t, "s1", nil)
	s2 := openMux(t, "s2", func(c *Config) {
		c.Handler = func(ctx context.Context, _ string, _ Kind, payload []byte) ([]byte, error) {
			if arrived.Add(1) == calls {
				close(all)
			}
			<-all // none is answered before all have arrived
			return payload, nil
		}
	})
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			want := bytes.Repeat([]byte{byte(i)}, i*17)
			got, err := s1.Call(t.Context(), s2.addr(), KindPropose, want)
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("call %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
	if n := len(s2.pick(func(*socket) bool { return true })); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func TestHandshakeRefusals(t *testing.T) {
	s2 := openMux(t, "s2", nil)
	for name, tc := range map[string]struct {
		edit func(*Config)
		says string
	}{
		"other cluster": {func(c *Config) { c.Identity.Cluster = cluster("c9") }, `cluster "c9"`},
		"wrong target":  {func(c *Config) { c.PeerID = func(string) string { return "s3" } }, `you want server "s3", this is "s2"`},
		"same id":       {func(c *Config) { c.Identity.ID = "s2" }, `you call yourself "s2"`},
	} {
		s1 := openMux(t, "s1", tc.edit)
		_, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil)
		wantRefused(t, err, tc.says)
		var refused *RefusedError
		if errors.As(err, &refused) && (refused.ID != "s2" || refused.Addr != s2.addr()) {
			t.Errorf("%s: %+v", name, refused)
		}
	}
	// The right target, and no cluster yet on one side, are fine.
	s1 := openMux(t, "s1", func(c *Config) {
		c.PeerID = func(string) string { return "s2" }
		c.Identity.Cluster = cluster("")
	})
	if _, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
		t.Error(err)
	}
	// An address that has passed to another server.
	s4 := openMux(t, "s4", func(c *Config) { c.Advertise = "s4.example:7000" })
	_, err := openMux(t, "s5", nil).Call(t.Context(), s4.addr(), KindStatus, nil)
	wantRefused(t, err, `this server is known as "s4.example:7000"`)
}

// What the other side says of itself counts, also when it accepts.
func TestDialerChecksTheAnswer(t *testing.T) {
	for name, tc := range map[string]struct {
		reply []byte
		says  string
	}{
		"other cluster": {answer{code: answerOK, id: "s2", cluster: "c9"}.encode(), `belongs to cluster "c9"`},
		"other server":  {answer{code: answerOK, id: "s3", cluster: "c1"}.encode(), `server "s2" was expected`},
		"http":          {[]byte("HTTP/1.1 400 Bad Request\r\n\r\n"), `starts with "HTTP/1.1"`},
		"hangs up":      {nil, "ended the handshake"},
	} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = readHello(conn)
			_, _ = conn.Write(tc.reply)
			_ = conn.Close()
		})
		s1 := openMux(t, "s1", func(c *Config) { c.PeerID = func(string) string { return "s2" } })
		_, err = s1.Call(t.Context(), ln.Addr().String(), KindStatus, nil)
		wantErr(t, err, ErrNotSent)
		if !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
		_ = ln.Close()
		wg.Wait()
	}
}

// rawDial opens a plain connection that ends with the test.
func rawDial(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestGarbageOnThePort(t *testing.T) {
	s1, s2 := openMux(t, "s1", nil), openMux(t, "s2", nil)
	for name, raw := range map[string]string{
		"http":    "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
		"tls":     "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
		"zeroes":  strings.Repeat("\x00", 100),
		"cut":     string(hello{purpose: purposeCall, from: "s1"}.encode()[:9]),
		"nothing": "",
	} {
		conn := rawDial(t, s2.addr())
		if _, err := io.WriteString(conn, raw); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
		if got, _ := io.ReadAll(conn); len(got) != 0 {
			t.Errorf("%s was answered %q", name, got)
		}
		if _, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
			t.Errorf("after %s: %v", name, err)
		}
	}
	// Another version is told so.
	raw := hello{purpose: purposeCall, from: "s1"}.encode()
	raw[4] = 2
	conn := rawDial(t, s2.addr())
	if _, err := conn.Write(raw); err != nil {
		t.Fatal(err)
	}
	if a, err := readAnswer(conn); err != nil || a.code != answerRefused || !strings.Contains(a.text, "upgrade the older") {
		t.Errorf("%+v, %v", a, err)
	}
	eventually(t, "all of it is closed", func() bool {
		return len(s2.pick(func(s *socket) bool { return s.enrolled != "s1" })) == 0
	})
}

func TestSilentConnections(t *testing.T) {
	s1, s2, s3 := openMux(t, "s1", nil), openMux(t, "s2", nil), openMux(t, "s3", nil)
	if _, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
		t.Fatal(err)
	}
	for range 2 * maxHandshakes {
		_ = rawDial(t, s2.addr())
	}
	eventually(t, "all places are taken", func() bool { return s2.greeting.size() == maxHandshakes })
	if _, err := s3.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
		t.Error(err)
	}
	if _, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil); err != nil {
		t.Error(err)
	}
}

// enrol does a handshake by hand and returns the answer.
func enrol(t *testing.T, m *Mux, id string) (net.Conn, answer) {
	t.Helper()
	conn := rawDial(t, m.addr())
	if _, err := conn.Write(hello{purpose: purposeCall, from: id, cluster: "c1"}.encode()); err != nil {
		t.Fatal(err)
	}
	a, err := readAnswer(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, a
}

func TestConnectionsPerServerAreBounded(t *testing.T) {
	m := openMux(t, "s1", nil)
	first, _ := enrol(t, m, "s9")
	for range maxPerPeer - 1 {
		if _, a := enrol(t, m, "s9"); a.code != answerOK {
			t.Fatalf("%+v", a)
		}
	}
	if _, a := enrol(t, m, "s9"); a.code != answerRefused || !strings.Contains(a.text, `16 connections of server "s9"`) {
		t.Errorf("%+v", a)
	}
	if _, a := enrol(t, m, "s8"); a.code != answerOK {
		t.Errorf("another server: %+v", a)
	}
	_ = first.Close()
	eventually(t, "the slot is free again", func() bool {
		_, a := enrol(t, m, "s9")
		return a.code == answerOK
	})
	m.mu.Lock()
	m.accepted = maxAccepted
	m.mu.Unlock()
	if _, a := enrol(t, m, "s7"); a.code != answerRefused || !strings.Contains(a.text, "256 connections") {
		t.Errorf("%+v", a)
	}
	if _, a := enrol(t, m, ""); a.code != answerRefused || !strings.Contains(a.text, "no server id") {
		t.Errorf("%+v", a)
	}
}

func TestPeerRestarts(t *testing.T) {
	addrs, err := freeport.Addrs(1)
	if err != nil {
		t.Fatal(err)
	}
	addr := addrs[0]
	listen := func(c *Config) { c.Listen = addr }
	s1, s2 := openMux(t, "s1", nil), openMux(t, "s2", listen)
	for range 3 {
		if _, err := s1.Call(t.Context(), addr, KindStatus, nil); err != nil {
			t.Fatal(err)
		}
		if err := s2.Close(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the dead connection is dropped", func() bool {
			s1.mu.Lock()
			defer s1.mu.Unlock()
			return len(s1.links) == 0
		})
		_, err := s1.Call(t.Context(), addr, KindStatus, nil)
		wantErr(t, err, ErrNotSent, syscall.ECONNREFUSED)
		s2 = openMux(t, "s2", listen)
	}
}

// A pooled connection that fails before the request was handed over is replaced once, within the same call.
func TestCallTriesAFreshConnectionOnce(t *testing.T) {
	s1, s2 := openMux(t, "s1", nil), openMux(t, "s2", nil)
	// A link whose end nobody has noticed: the call meets it as pooled, and its write takes no byte.
	dead, other := net.Pipe()
	defer other.Close()
	d := &dialedLink{ready: make(chan struct{})}
	d.link = newLink(t.Context(), s2.addr(), &halfway{Conn: dead})
	close(d.ready)
	s1.mu.Lock()
	s1.links[s2.addr()] = d
	s1.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() {
		body, err := s1.Call(t.Context(), s2.addr(), KindStatus, []byte("x"))
		if err != nil || string(body) != "s1 status x" {
			t.Errorf("%s, %v", body, err)
		}
	})
	eventually(t, "the call is in the queue", func() bool {
		d.link.mu.Lock()
		defer d.link.mu.Unlock()
		return len(d.link.pending) == 1
	})
	d.link.run(func() {
		s1.mu.Lock()
		defer s1.mu.Unlock()
		delete(s1.links, s2.addr())
	})
	wg.Wait()
}

func TestCloseEndsCallsAndWaits(t *testing.T) {
	began, ending, release := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s1 := openMux(t, "s1", nil)
	s2 := openMux(t, "s2", func(c *Config) {
		c.Handler = func(ctx context.Context, _ string, _ Kind, _ []byte) ([]byte, error) {
			close(began)
			<-ctx.Done()
			close(ending)
			<-release // it takes its time
			return nil, ctx.Err()
		}
	})
	called, closed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := s1.Call(context.Background(), s2.addr(), KindPropose, nil)
		called <- err
	}()
	<-began
	go func() { closed <- s2.Close() }()
	<-ending
	wantErr(t, <-called, ErrOutcomeUnknown)
	select {
	case err := <-closed:
		t.Errorf("Close returned %v before the handler did", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if err := s1.Close(); err != nil {
		t.Error(err)
	}
	_, err := s1.Call(t.Context(), s2.addr(), KindStatus, nil)
	wantErr(t, err, ErrNotSent, net.ErrClosed)
	if err := s1.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if n := len(s1.pick(func(*socket) bool { return true })) + len(s2.pick(func(*socket) bool { return true })); n != 0 {
		t.Errorf("%d connections left", n)
	}
}

func TestOpenChecksItsConfig(t *testing.T) {
	m := openMux(t, "s1", nil)
	for name, tc := range map[string]struct {
		edit func(*Config)
		says string
	}{
		"no id":         {func(c *Config) { c.Identity.ID = "" }, "server id"},
		"no cluster":    {func(c *Config) { c.Identity.Cluster = nil }, "cluster id"},
		"no handler":    {func(c *Config) { c.Handler = nil }, "handler"},
		"slow dial":     {func(c *Config) { c.DialTimeout = 2 * time.Second }, "dial timeout 2s"},
		"bad advertise": {func(c *Config) { c.Advertise = ":7000" }, "advertised address"},
		"port in use":   {func(c *Config) { c.Listen = m.addr() }, "free the port"},
	} {
		cfg := Config{Listen: "127.0.0.1:0", Identity: Identity{ID: "s1", Cluster: cluster("")}, Handler: echo}
		tc.edit(&cfg)
		if _, err := Open(cfg); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	named := openMux(t, "s2", func(c *Config) { c.Advertise = "s2.example:0" })
	_, port, _ := net.SplitHostPort(named.addr())
	if got := named.StreamLayer().Addr(); got.String() != "s2.example:"+port || got.Network() != "tcp" {
		t.Errorf("raft's address is %v", got)
	}
}

package peer

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// pipes is a listener of in-memory connections, so that a whole Mux runs in virtual time.
type pipes struct {
	conns chan net.Conn
	ended chan struct{}
}

func (p pipes) Addr() net.Addr { return advertised("s1:7000") }

func (p pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.ended:
		return nil, net.ErrClosed
	}
}

func (p pipes) Close() error {
	close(p.ended)
	return nil
}

// startMux runs a Mux of which connect returns new connections.
func startMux(t *testing.T) (m *Mux, connect func() net.Conn) {
	ln := pipes{conns: make(chan net.Conn), ended: make(chan struct{})}
	cfg := Config{Identity: Identity{ID: "s1", Cluster: cluster("c1")}, Handler: echo, Logger: quiet(), DialTimeout: time.Second}
	m, err := start(cfg, ln, new(fickle))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	return m, func() net.Conn {
		a, b := net.Pipe()
		ln.conns <- b
		return a
	}
}

// lifetime is how long the other side keeps a connection open on which nothing more is sent.
func lifetime(conn net.Conn) time.Duration {
	begin := time.Now()
	_, _ = io.Copy(io.Discard, conn)
	return time.Since(begin)
}

func TestHandshakeHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, connect := startMux(t)
		if took := lifetime(connect()); took != handshakeTimeout {
			t.Errorf("a silent connection lived for %v", took)
		}
		conn := connect()
		if _, err := conn.Write(hello{purpose: purposeCall, from: "s2"}.encode()[:9]); err != nil {
			t.Fatal(err)
		}
		if took := lifetime(conn); took != handshakeTimeout {
			t.Errorf("half a handshake lived for %v", took)
		}
		// Past the handshake it is the signs of life that count.
		conn = connect()
		if _, err := conn.Write(hello{purpose: purposeCall, from: "s2"}.encode()); err != nil {
			t.Fatal(err)
		}
		if took := lifetime(conn); took != silentFor {
			t.Errorf("a call connection without signs of life lived for %v", took)
		}
	})
}

// A refused side that does not go away is not waited for.
func TestRefusalDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, connect := startMux(t)
		conn := connect()
		if _, err := conn.Write(hello{purpose: purposeCall, from: "s2", cluster: "c9"}.encode()); err != nil {
			t.Fatal(err)
		}
		if took := lifetime(conn); took != lingerFor {
			t.Errorf("a refused connection lived for %v", took)
		}
	})
}

// An accepted connection that raft does not take over, because its transport is gone, is closed.
func TestRaftConnectionNobodyAccepts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, connect := startMux(t)
		m.StreamLayer()
		conn := connect()
		if _, err := conn.Write(hello{purpose: purposeRaft, from: "s2"}.encode()); err != nil {
			t.Fatal(err)
		}
		if took := lifetime(conn); took != handshakeTimeout {
			t.Errorf("it lived for %v", took)
		}
	})
}

// A raft connection may be idle for as long as it likes, and not stop, or trickle, within a request.
func TestStalledRequests(t *testing.T) {
	beat := record(func(tr *raft.NetworkTransport) {
		_ = tr.AppendEntries("s1", "s1:7000", &raft.AppendEntriesRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2")}, Term: 3}, new(raft.AppendEntriesResponse))
	})
	snapshot := record(func(tr *raft.NetworkTransport) {
		_ = tr.InstallSnapshot("s1", "s1:7000", &raft.InstallSnapshotRequest{RPCHeader: raft.RPCHeader{ID: []byte("s2")}, Size: 1 << 40}, new(raft.InstallSnapshotResponse), strings.NewReader(""))
	})
	for name, tc := range map[string]struct {
		raw     []byte
		every   time.Duration // one byte more, while it is taken
		idle    time.Duration // before all of it
		atLeast time.Duration
		atMost  time.Duration
	}{
		"half a request":      {raw: beat[:9], atLeast: silentFor, atMost: silentFor},
		"half, after a day":   {raw: beat[:9], idle: 24 * time.Hour, atLeast: silentFor, atMost: silentFor},
		"no snapshot":         {raw: snapshot, atLeast: silentFor, atMost: silentFor},
		"a snapshot trickles": {raw: snapshot, every: time.Second, atLeast: silentFor, atMost: silentFor + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, connect := startMux(t)
				layer := m.StreamLayer()
				conn := connect()
				if _, err := conn.Write(hello{purpose: purposeRaft, from: "s2"}.encode()); err != nil {
					t.Fatal(err)
				}
				if a, err := readAnswer(conn); err != nil || a.code != answerOK {
					t.Fatalf("%+v, %v", a, err)
				}
				served, err := layer.Accept()
				if err != nil {
					t.Fatal(err)
				}
				over := make(chan error, 1)
				go func() {
					_, err := io.Copy(io.Discard, served)
					over <- errors.Join(err, served.Close())
				}()
				<-time.After(tc.idle)
				began := time.Now()
				if _, err := conn.Write(tc.raw); err != nil {
					t.Fatal(err)
				}
				if tc.every > 0 {
					for err == nil {
						<-time.After(tc.every)
						_, err = conn.Write([]byte{0})
					}
				}
				err = <-over
				if took := time.Since(began); !errors.Is(err, errSilent) || took < tc.atLeast || took > tc.atMost {
					t.Errorf("it ended after %v with %v", took, err)
				}
			})
		})
	}
}

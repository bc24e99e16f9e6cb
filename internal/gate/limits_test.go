package gate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/gate/wire"
	"github.com/scope-registry/scope-registry/scope"
)

func itoa(n int) string { return strconv.Itoa(n) }

func scopeOf(prefix string) scope.Prefix { return scope.Prefix(prefix) }

// waits returns when a command waits in the store for a key.
func (u *user) waits(r *rig, key string) {
	u.t.Helper()
	r.eventually("a command waits for "+key, func() error {
		r.store.mu.Lock()
		defer r.store.mu.Unlock()
		for _, c := range r.store.conns {
			if c.blocked {
				return nil
			}
		}
		return errNotYet
	})
}

func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	form := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"gate"}, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, form, form, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// A client that does not read holds up nobody, and what it does not take is bounded.
func TestSlowClient(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits = Limits{Ahead: 2, Unsent: 1 << 20, Hoard: 8 << 20} })
	u, slow := r.user(), r.user()
	long := strings.Repeat("x", 1<<20)
	u.send("SET free " + long)
	u.gets("+OK")
	const replies = 64
	for range replies {
		slow.send("GET free")
	}
	u.send("PING", "SET "+r.x("a")+" 1", "GET free")
	u.gets("+PONG", "+OK", "$"+itoa(len(long)), long)
	for range replies {
		slow.gets("$"+itoa(len(long)), long)
	}
}

// Messages that a client does not take end its connection; the one who sends them does not wait.
func TestGreedyClient(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits = Limits{Hoard: 1 << 20} })
	u, greedy := r.user(), r.user()
	greedy.send("SUBSCRIBE a")
	greedy.gets("*3", "$9", "subscribe", "$1", "a", ":1")
	long := strings.Repeat("x", 1<<20)
	for taken := ":1"; taken == ":1"; { // the sockets take some
		u.send("PUBLISH a " + long)
		taken = u.line()
	}
	if _, err := io.Copy(io.Discard, greedy.nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection goes on")
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, func(c *Config) {
		c.Limits = Limits{Clients: 2, Request: wire.Limits{Args: 10, Request: 200, Inline: 100}, Ahead: 4}
	})
	u, v := r.user(), r.user()
	u.send("PING")
	u.gets("+PONG")
	v.send("SET " + r.x("a") + " " + strings.Repeat("x", 300))
	v.gets("-ERR Protocol error: a request of more than 200 bytes; this gate takes no longer ones")
	v.ends()
	w := r.user()
	w.send("PING")
	w.gets("+PONG")
	x := r.user()
	if line := x.line(); !strings.HasPrefix(line, "-TRYAGAIN UNAVAILABLE the gate has 2 clients") {
		t.Error(line)
	}
	x.ends()
	for range 10 {
		u.send("PING", "PING", "PING", "PING", "PING", "PING", "PING")
	}
	u.gets(strings.Split(strings.Repeat("+PONG\n", 69)+"+PONG", "\n")...)
	_, _ = u.nc.Write([]byte("set " + r.x("a") + " \"a b\"\r\nget " + r.x("a") + "\n\nPING\r\nset \"a\n"))
	u.gets("+OK", "$3", "a b", "+PONG", "-ERR Protocol error: unbalanced quotes in request: close each quote, and put a space behind it")
	u.ends()
}

// A gate that ends takes no more commands, and answers those under way.
func TestDrain(t *testing.T) {
	r := newRig(t, nil)
	u, idle, parked := r.user(), r.user(), r.user()
	idle.send("PING")
	idle.gets("+PONG")
	parked.send("BLPOP " + r.x("q") + " 0")
	parked.waits(r, r.x("q"))
	held := r.hold("SET")
	u.send("SET "+r.x("a")+" 1", "SET free 1")
	<-held.reached
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		r.stop()
	}()
	idle.ends()
	if line := parked.line(); !strings.HasPrefix(line, "-TRYAGAIN UNAVAILABLE the gate is shutting down") {
		t.Error(line)
	}
	select {
	case <-stopped:
		t.Fatal("it did not wait for the write")
	default:
	}
	close(held.goOn)
	u.gets("+OK", "+OK")
	u.ends()
	<-stopped
}

// A store that does not answer does not keep a gate from ending.
func TestDrainIsBounded(t *testing.T) {
	r := newRig(t, func(c *Config) { c.Limits = Limits{Drain: 20 * time.Millisecond} })
	held := r.hold("SET")
	u, private := r.user(), r.user()
	u.send("SET " + r.x("a") + " 1")
	<-held.reached
	private.send("MULTI")
	private.gets("+OK")
	r.stop()
	if n, err := io.Copy(io.Discard, u.nc); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection goes on, after %d bytes", n)
	}
	private.ends()
	if n := r.gate.Stats().Limbo; n != 0 {
		t.Errorf("%d writes are in limbo, though the store has shown that the connection is gone", n)
	}
	close(held.goOn)
}

// Long replies come whole, and in their order, whether they are passed on in pieces or put aside until the write is checked.
func TestLongReplies(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	long := strings.Repeat("0123456789abcdef", 100_000)
	for range 3 {
		u.send("SET "+r.x("a")+" "+long, "GET "+r.x("a"), "PING", "GETDEL "+r.x("a"), "PING", "GET "+r.x("a"))
		u.gets("+OK", "$"+itoa(len(long)), long, "+PONG", "$"+itoa(len(long)), long, "+PONG", "$-1")
	}
}

// A command that is allowed costs no allocation, from the bytes of the client to those for it.
func TestNoAllocations(t *testing.T) {
	r := newRig(t, nil)
	here, there := pipeEnds(t)
	c := r.gate.newConn(here, 1)
	_ = there
	up, err := r.store.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = up.Close() }()
	p := &pipe{g: r.gate, up: up, wake: make(chan struct{}, 1), ended: make(chan struct{}), tail: newChunk(), pace: c.pace}
	p.room.L, p.q.head, c.pipe = &p.mu, p.tail, p
	commands := encode("SET "+r.x("a")+" 1", "GET "+r.x("a"), "SET free 2", "MSET "+r.x("a")+" 1 "+r.x("b")+" 2")
	replies := []byte("+OK\r\n$1\r\n1\r\n+OK\r\n+OK\r\n")
	once := func() {
		c.end = copy(c.in, commands)
		if !c.scan() {
			t.Fatal("the client has left")
		}
		p.round = p.g.rounds.Add(1)
		for b := replies; len(b) > 0; {
			n, _, err := p.framer.Next(b)
			if err == nil {
				err = p.reply(b[:n])
			}
			if err != nil {
				t.Fatal(err)
			}
			b = b[n:]
		}
		p.unlock()
		p.touched = p.touched[:0]
		if !bytes.Equal(c.box.out, replies) || !bytes.Equal(p.out, commands) || c.box.done != c.issued {
			t.Fatalf("%q for the client, %q for the store", c.box.out, p.out)
		}
		p.out, c.box.out = p.out[:0], c.box.out[:0]
	}
	for range 200 { // more than a chunk: buffers and pools have grown
		once()
	}
	if n := testing.AllocsPerRun(500, once); n >= 1 {
		t.Errorf("%v allocations for 4 commands", n)
	}
}

// pipeEnds are the ends of a connection.
func pipeEnds(t *testing.T) (a, b net.Conn) {
	a, b = net.Pipe()
	t.Cleanup(func() { _, _ = a.Close(), b.Close() })
	return a, b
}

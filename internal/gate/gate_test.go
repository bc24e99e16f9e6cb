package gate

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/scope-registry/scope-registry/client"
)

// What this node owns is written, what another owns is refused in the words that clients know, and replies come in the order
// of the commands, whoever answers.
func TestWritesAreDecidedByOwner(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	u.send("SET "+r.x("a")+" 1", "SET "+r.o("a")+" 2", "GET "+r.x("a"), "SET free 3", "GET "+r.o("a"), "NOSUCH a", "FLUSHALL", "MSET "+r.x("a")+" 1 "+r.x("b")+" 2",
		"MSET "+r.o("a")+" 1 "+r.x("b")+" 2", "SET __scope-registry:gate me", "GET __scope-registry:gate", "PING")
	u.gets("+OK", "-MISDIRECTED writer is "+r.other, "$1", "1", "+OK", "$-1", "-ERR unknown command 'NOSUCH', with args beginning with: 'a' ")
	if line := u.line(); !strings.HasPrefix(line, "-ERR FLUSHALL") {
		t.Error(line)
	}
	u.gets("+OK")
	line := u.line()
	if !strings.HasPrefix(line, "-CROSS_SCOPE ") || !strings.Contains(line, r.x("")+`"`) || !strings.Contains(line, r.o("")+`"`) {
		t.Error(line)
	}
	u.gets("-ERR keys that begin with __scope-registry: are the gate's own", "-ERR keys that begin with __scope-registry: are the gate's own", "+PONG")
	want := []string{"SET " + r.x("a") + " 1", "GET " + r.x("a"), "SET free 3", "GET " + r.o("a"), "MSET " + r.x("a") + " 1 " + r.x("b") + " 2", "PING"}
	if got := r.store.did(); !slices.Equal(got, want) {
		t.Errorf("the store did %q, want %q", got, want)
	}
	s := r.gate.Stats()
	counted := map[string]uint64{}
	for class := range s.Commands {
		for v, n := range s.Commands[class] {
			if n > 0 {
				counted[Class(class).String()+" "+Verdict(v).String()] = n
			}
		}
	}
	if got, want := fmt.Sprint(counted), "map[other refused:1 other sent:1 other unknown_command:1 read refused:1 read sent:2 write cross_scope:1 write misdirected:1 write refused:1 write sent:3]"; got != want {
		t.Errorf("counted %s, want %s", got, want)
	}
	r.eventually("all is counted", func() error {
		if s := r.gate.Stats(); s.InFlight != 0 || s.Clients != 1 || s.Pipes != 1 || s.Inward.Sum == 0 || s.Outward.Sum == 0 {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
}

// A scope that moves takes reads, and writes in the words that clients know; when the move is aborted it takes writes again.
func TestQuiesced(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	u.send("SET " + r.x("a") + " 1")
	u.gets("+OK")
	to, addr := r.target()
	held := r.hold("SET " + r.x("held"))
	w := r.user()
	w.send("SET " + r.x("held") + " 1")
	<-held.reached
	id := r.move(to)
	r.quiesced()
	u.send("SET "+r.x("a")+" 2", "SET free 1")
	u.gets("-QUIESCED migrating to " + addr)
	if _, err := r.c.Abort(t.Context(), id, "enough"); err != nil {
		t.Fatal(err)
	}
	close(held.goOn)
	w.gets("+OK")
	u.gets("+OK")
	r.eventually("writes are taken", func() error { return r.session.Guard().Owns([]byte(r.x("a"))) })
	u.send("SET "+r.x("a")+" 3", "GET "+r.x("a"))
	u.gets("+OK", "$1", "3")
}

// held is a command that the store does not execute yet.
type held struct{ reached, goOn chan struct{} }

func (r *rig) hold(command string) held {
	h := held{make(chan struct{}), make(chan struct{})}
	var once atomic.Bool
	r.store.hook(func(_ *fakeConn, args []string) {
		if strings.HasPrefix(strings.Join(args, " "), command) && once.CompareAndSwap(false, true) {
			close(h.reached)
			<-h.goOn
		}
	})
	return h
}

// A write counts until the store has answered, also if the client has left: the move waits for it.
func TestClientLeavesAWriteBehind(t *testing.T) {
	r := newRig(t, nil)
	to, _ := r.target()
	held := r.hold("SET")
	u := r.user()
	u.send("SET " + r.x("a") + " 1")
	<-held.reached
	_ = u.nc.Close()
	id := r.move(to)
	r.quiesced()
	r.eventually("the client is gone", func() error {
		r.gate.mu.Lock()
		defer r.gate.mu.Unlock()
		for c := range r.gate.conns {
			c.box.mu.Lock()
			waiting := c.box.waiting
			c.box.mu.Unlock()
			if waiting == 0 {
				return fmt.Errorf("it is still served")
			}
		}
		return nil
	})
	r.phase(id, "quiescing")
	close(held.goOn)
	r.phase(id, "done")
	if got := r.store.did(); len(got) != 1 {
		t.Errorf("the store did %q", got)
	}
}

// A write that executed while its scope went is not acknowledged.
func TestOutcomeUnknown(t *testing.T) {
	r := newRig(t, nil)
	held := r.hold("SET " + r.x("a"))
	u := r.user()
	u.send("SET "+r.x("a")+" 1", "GET "+r.x("a"), "GETDEL free")
	<-held.reached
	if _, err := r.c.Retire(t.Context(), scopeOf(r.x("")), client.Fenced{}, 0); err != nil {
		t.Fatal(err)
	}
	r.eventually("the node knows", func() error {
		if _, there := r.session.View().Scope(scopeOf(r.x(""))); there {
			return fmt.Errorf("the scope is there")
		}
		return nil
	})
	close(held.goOn)
	if line := u.line(); !strings.HasPrefix(line, "-OUTCOME_UNKNOWN the write executed") {
		t.Error(line)
	}
	u.gets("$1", "1")
	if line := u.line(); !strings.HasPrefix(line, "-OUTCOME_UNKNOWN") {
		t.Error(line, "of a key that no scope held when one was retired")
	}
}

// When the store's connection breaks its writes are unknown, and count until they cannot execute any more; the gate then goes
// on over another.
func TestStoreBreaks(t *testing.T) {
	r := newRig(t, nil)
	to, _ := r.target()
	buried, dig := make(chan struct{}), make(chan struct{})
	var once atomic.Bool
	r.store.mu.Lock()
	r.store.buried = func() {
		if once.CompareAndSwap(false, true) {
			close(buried)
		}
		<-dig
	}
	r.store.mu.Unlock()
	held := r.hold("SET")
	u := r.user()
	u.send("SET "+r.x("a")+" 1", "GET "+r.x("a"), "PUBLISH c m")
	<-held.reached
	r.store.kill()
	for _, want := range []string{"-OUTCOME_UNKNOWN the connection", "-TRYAGAIN UNAVAILABLE the connection", "-OUTCOME_UNKNOWN the connection"} {
		if line := u.line(); !strings.HasPrefix(line, want) {
			t.Errorf("%s, want %s", line, want)
		}
	}
	<-buried
	id := r.move(to)
	r.quiesced()
	if s := r.gate.Stats(); s.Limbo != 1 || s.InFlight != 0 {
		t.Errorf("%d writes are in limbo, %d commands in flight", s.Limbo, s.InFlight)
	}
	r.phase(id, "quiescing")
	close(held.goOn)
	close(dig)
	r.phase(id, "done")
	u.send("SET free 1", "GET free")
	u.gets("+OK", "$1", "1")
	if got := r.store.did(); !slices.Equal(got, []string{"SET free 1", "GET free"}) {
		t.Errorf("the store did %q", got)
	}
}

// While the store is not there, commands get an error that says so, and nothing is counted.
func TestStoreIsDown(t *testing.T) {
	r := newRig(t, nil)
	r.store.mu.Lock()
	r.store.down = true
	r.store.mu.Unlock()
	u := r.user()
	u.send("SET "+r.x("a")+" 1", "SET "+r.o("a")+" 1", "BLPOP "+r.x("q")+" 0", "PING")
	for _, want := range []string{"-TRYAGAIN UNAVAILABLE the store", "-MISDIRECTED ", "-TRYAGAIN UNAVAILABLE the store", "-TRYAGAIN UNAVAILABLE the store"} {
		if line := u.line(); !strings.HasPrefix(line, want) {
			t.Errorf("%s, want %s", line, want)
		}
	}
	r.store.mu.Lock()
	r.store.down = false
	r.store.mu.Unlock()
	r.eventually("the store is back", func() error {
		u.send("SET " + r.x("a") + " 1")
		if line := u.line(); line != "+OK" {
			return fmt.Errorf("%s", line)
		}
		return nil
	})
}

// A client that leaves anywhere in its commands leaves nothing behind that counts.
func TestClientLeavesAnywhere(t *testing.T) {
	r := newRig(t, nil)
	all := encode("SET "+r.x("a")+" 1", "SET free 2", "GET "+r.x("a"), "MULTI", "SET "+r.x("b")+" 2", "EXEC", "BLPOP "+r.x("q")+" 0", "SET "+r.x("c")+" 3")
	for n := range len(all) {
		u := r.user()
		if _, err := u.nc.Write(all[:n]); err != nil {
			t.Fatal(err)
		}
		_ = u.nc.Close()
	}
	r.eventually("all are gone", func() error {
		r.gate.mu.Lock()
		defer r.gate.mu.Unlock()
		if n := len(r.gate.conns); n > 0 {
			return fmt.Errorf("%d are there", n)
		}
		return nil
	})
	r.eventually("private connections are gone", func() error {
		if n := r.gate.pipes.Load(); n > 1 {
			return fmt.Errorf("%d are there", n)
		}
		return nil
	}) // that nothing counts the session's end says
}

// Slices come in on the same port, over HTTP; over TLS both do.
func TestOnePort(t *testing.T) {
	r := newRig(t, nil)
	resp, err := http.Post("http://"+r.addr+client.SlicePath, "application/octet-stream", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 4 || !bytes.Contains(body, []byte("INVALID")) {
		t.Errorf("%s %s", resp.Status, body)
	}
	u := r.user()
	_, _ = u.nc.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if line := u.line(); !strings.HasPrefix(line, "-ERR Protocol error: ") {
		t.Error(line)
	}
	u.ends()
}

// With certificates slices come over TLS only, also if clients may come without.
func TestSlicesOverTLSOnly(t *testing.T) {
	own, _ := selfSigned(t)
	r := newRig(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
		c.Slices = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a slice came in without TLS") })
	})
	if resp, err := http.Post("http://"+r.addr+client.SlicePath, "application/octet-stream", strings.NewReader("x")); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a slice without TLS is answered %s", resp.Status)
	}
	u := r.user()
	u.send("PING")
	u.gets("+PONG")
}

// A connection over HTTP that has no request for long is closed.
func TestIdleSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newHTTPEnd(http.NotFoundHandler(), slog.New(slog.DiscardHandler))
		served := make(chan struct{})
		go func() {
			defer close(served)
			e.serve()
		}()
		mine, its := net.Pipe()
		e.give(its)
		began := time.Now()
		if _, err := mine.Write([]byte("POST / HTTP/1.1\r\nHost: gate\r\nContent-Length: 0\r\n\r\n")); err != nil {
			t.Fatal(err)
		}
		said, err := io.ReadAll(mine)
		if took := time.Since(began); err != nil || took != idleWait || !bytes.HasPrefix(said, []byte("HTTP/1.1 404 ")) {
			t.Errorf("after %v: %q, %v", took, said, err)
		}
		e.close()
		<-served
	})
}

func TestTLS(t *testing.T) {
	own, pool := selfSigned(t)
	r := newRig(t, func(c *Config) {
		c.TLS = &tls.Config{Certificates: []tls.Certificate{own}, MinVersion: tls.VersionTLS12}
		c.TLSOnly = true
		slices := c.Slices
		c.Slices = http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			if req.TLS == nil || req.TLS.ServerName != "gate" {
				t.Errorf("the handler is not told of TLS: %+v", req.TLS)
			}
			slices.ServeHTTP(w, req)
		})
	})
	if resp, err := http.Post("http://"+r.addr+client.SlicePath, "application/octet-stream", strings.NewReader("x")); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a slice without TLS is answered %s", resp.Status)
	}
	plain := r.user()
	plain.send("PING")
	plain.gets("-NOPERM this gate takes clients over TLS only")
	u := r.user()
	u.nc = tls.Client(u.nc, &tls.Config{RootCAs: pool, ServerName: "gate", MinVersion: tls.VersionTLS12})
	u.send("SET "+r.x("a")+" 1", "GET "+r.x("a"))
	u.gets("+OK", "$1", "1")
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "gate", MinVersion: tls.VersionTLS12}}}
	defer hc.CloseIdleConnections()
	resp, err := hc.Post("https://"+r.addr+client.SlicePath, "application/octet-stream", strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode/100 != 4 {
		t.Error(resp.Status)
	}
}

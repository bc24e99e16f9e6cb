package upstream

import (
	"bufio"
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// stray is a connection that somebody else has left, with a name.
func (f *fake) stray(name string) net.Conn {
	f.t.Helper()
	c, err := net.Dial("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = c.Close() })
	_, err = c.Write(appendCommand(nil, "CLIENT", "SETNAME", name))
	if err == nil {
		_, err = readReply(bufio.NewReader(c))
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

// closed returns when the other side has closed a connection.
func closed(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection lives: %v", err)
	}
}

func (f *fake) lock() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.keys[LockKey]
}

// What an earlier gate has left is killed, and Open returns after it is gone; others are left alone.
func TestOpenKillsWhatAnEarlierGateLeft(t *testing.T) {
	f := newFake(t)
	f.keys[LockKey] = "gate n1 data1 before"
	f.stubborn = 3
	old, other := f.stray("scope-registry-gate:n1:before:7"), f.stray("scope-registry-gate:n9:x:1")
	f.stray("somebody")
	s := f.open(f.config())
	names := f.names()
	if len(names) != 2 || names[0] != "somebody" || !strings.HasPrefix(names[1], "scope-registry-gate:n1:"+s.instance+":") {
		t.Errorf("the store has the connections %q", names)
	}
	closed(t, old)
	closed(t, other)
	if got := f.lock(); got != s.own || !strings.HasPrefix(got, "gate n1 data1 ") {
		t.Errorf("the lock is %q", got)
	}
	if n := f.count("CLIENT LIST"); n < 3 {
		t.Errorf("it looked %d times", n)
	}
}

// A kill that does not take effect is not taken for one.
func TestOpenWaitsForTheEnd(t *testing.T) {
	f := newFake(t)
	f.stubborn = 1 << 20
	f.stray("scope-registry-gate:n1:before:7")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, f.config(), testLog(t)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "n1:before:7") {
		t.Errorf("%v", err)
	}
}

func TestHeldByAnother(t *testing.T) {
	for _, c := range []struct{ lock, says string }{
		{"gate n2 data2 i", `held by the gate of node "n2"`},
		{"gate n1 data9 i", `another gate of this node "n1" (identity of its data dir: data9)`},
		{"what is this", "holds what no gate wrote"},
	} {
		f := newFake(t)
		f.keys[LockKey] = c.lock
		live := f.stray("scope-registry-gate:n2:i:1")
		_, err := Open(t.Context(), f.config(), testLog(t))
		var held *HeldError
		if !errors.As(err, &held) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "delete") || !strings.Contains(err.Error(), f.addr) {
			t.Errorf("%s: %v", c.lock, err)
		}
		if f.lock() != c.lock || f.count("CLIENT KILL") > 0 {
			t.Errorf("%s: a store of another's was changed", c.lock)
		}
		_ = live.Close()
	}
}

// A gate whose lock is another's closes for good at its next connection.
func TestLostLock(t *testing.T) {
	f := newFake(t)
	s := f.open(f.config())
	if _, err := s.Dial(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.set(func() { f.keys[LockKey] = "gate n1 data1 next" })
	c, err := s.Dial(t.Context())
	var held *HeldError
	if c != nil || !errors.As(err, &held) {
		t.Fatalf("%v", err)
	}
	<-s.Lost()
	f.set(func() { f.keys[LockKey] = s.own })
	if _, err := s.Dial(t.Context()); !errors.As(err, &held) {
		t.Errorf("%v", err)
	}
}

// A start that fails leaves a lock only where one was before.
func TestUndo(t *testing.T) {
	for _, before := range []string{"", "gate n1 data1 before"} {
		f := newFake(t)
		if before != "" {
			f.keys[LockKey] = before
		}
		s := f.open(f.config())
		if err := s.Undo(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := f.lock(); (got == "") != (before == "") {
			t.Errorf("the lock was %q and is %q", before, got)
		}
	}
}

// Nobody needs to dial for the loss to be seen.
func TestLostLockIsLookedFor(t *testing.T) {
	f := newFake(t)
	s := f.open(f.config())
	f.set(func() { f.keys[LockKey] = "gate n1 data1 next" })
	<-s.Lost()
	if s.LostError() == nil {
		t.Error("there is no reason")
	}
}

// The lock is looked at after the connection has its name: a successor that lists the names after it took the lock would
// otherwise miss one.
func TestDialNamesBeforeItLooks(t *testing.T) {
	f := newFake(t)
	s := f.open(f.config())
	f.set(func() { f.asked = nil })
	c, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	name, lock := slices.Index(f.asked, "CLIENT SETNAME"), slices.Index(f.asked, "GET")
	if name < 0 || lock < name || f.conns[c.ID].name != c.Name {
		t.Errorf("it asked %q", f.asked)
	}
}

// A store that was started again is used again: without its data the lock is taken anew, which is counted.
func TestStoreComesBack(t *testing.T) {
	f := newFake(t)
	s := f.open(f.config())
	for i, keep := range []bool{true, false} {
		f.down()
		if _, err := s.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot be reached") {
			t.Errorf("%v", err)
		}
		if _, err := s.Ask(t.Context(), "INFO"); err == nil {
			t.Error("a store that is off answered")
		}
		f.up(keep)
		c, err := s.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
		if got := s.retaken.Load(); got != uint64(i) || f.lock() != s.own {
			t.Errorf("keep %v: taken again %d times, lock %q", keep, got, f.lock())
		}
		if _, err := s.Info(t.Context(), "server"); err != nil {
			t.Error(err)
		}
	}
	if s.LostError() != nil {
		t.Error(s.LostError())
	}
}

// Gone tells a connection from another that has got its number since.
func TestGone(t *testing.T) {
	f := newFake(t)
	s := f.open(f.config())
	c, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.stubborn = 2
	f.mu.Unlock()
	again, err := s.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Gone(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if slices.Contains(f.names(), again.Name) || !slices.Contains(f.names(), c.Name) {
		t.Errorf("the store has %q", f.names())
	}
	f.down()
	f.up(true)
	for range c.ID + 2 { // as many as have the numbers
		f.stray("somebody")
	}
	kills := f.count("CLIENT KILL")
	if err := s.Gone(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if f.count("CLIENT KILL") != kills {
		t.Error("somebody else's connection was killed")
	}
}

// A store that is not there yet, loads, or runs a script is waited for.
func TestOpenWaitsForTheStore(t *testing.T) {
	f := newFake(t)
	f.answer["INFO"] = []string{"-LOADING Redis is loading the dataset in memory\r\n", "-BUSY Redis is busy running a script.\r\n"}
	f.open(f.config())
	f.down()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, f.config(), testLog(t)); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "cannot be reached") {
		t.Errorf("%v", err)
	}
}

func TestUnfitStores(t *testing.T) {
	for info, says := range map[string]string{
		"cluster_enabled:1\r\n":                            "cluster mode",
		"role:slave\r\nmaster_host:h\r\nmaster_port:1\r\n": "a replica of h:1",
	} {
		f := newFake(t)
		f.info = info
		if _, err := Open(t.Context(), f.config(), testLog(t)); err == nil || !strings.Contains(err.Error(), says) || f.lock() != "" {
			t.Errorf("%q: %v", info, err)
		}
	}
	f := newFake(t)
	f.answer["CLIENT ID"] = []string{"-NOPERM this user has no permissions to run the 'client|id' command\r\n"}
	if _, err := Open(t.Context(), f.config(), testLog(t)); err == nil || !strings.Contains(err.Error(), "CLIENT ID: NOPERM") {
		t.Errorf("%v", err)
	}
}

func TestPasswords(t *testing.T) {
	f := newFake(t)
	f.password = "secret"
	c := f.config()
	file := filepath.Join(t.TempDir(), "password")
	refusedWith := func(says string) {
		t.Helper()
		_, err := Open(t.Context(), c, testLog(t))
		if err == nil || !strings.Contains(err.Error(), says) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "wrong") {
			t.Errorf("%v", err)
		}
	}
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	refusedWith("NOAUTH")
	c.PasswordFile = file
	refusedWith("cannot be read")
	put("\n")
	refusedWith("holds 0 bytes")
	put(strings.Repeat("x", maxPassword+1))
	refusedWith("holds 4097 bytes")
	put("wrong\n")
	refusedWith("AUTH: WRONGPASS")
	put("secret\n")
	s := f.open(c)
	// Read anew, as it may have changed.
	put("wrong")
	if _, err := s.Dial(t.Context()); err == nil || !strings.Contains(err.Error(), "WRONGPASS") {
		t.Errorf("%v", err)
	}
	c.User, c.PasswordFile = "gate", file
	put("secret")
	c.Node = "n1"
	_ = s.Close()
	f.open(c)
}

func TestBadConfig(t *testing.T) {
	good := Config{Addr: "127.0.0.1:1", Node: "n1", Identity: "d"}
	for says, change := range map[string]func(*Config){
		"not host:port":        func(c *Config) { c.Addr = "127.0.0.1" },
		"without space":        func(c *Config) { c.Node = "a b" },
		`identity ""`:          func(c *Config) { c.Identity = "" },
		"give both or neither": func(c *Config) { c.TLS, c.Cert = true, "x" },
		"not asked for":        func(c *Config) { c.CA = "x" },
		"no such file":         func(c *Config) { c.TLS, c.CA = true, "/nowhere/ca.pem" },
	} {
		c := good
		change(&c)
		if _, err := Open(t.Context(), c, testLog(t)); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

// Something else than a Redis-protocol server listens there.
func TestNoRedis(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			_, _ = c.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
			_, _ = c.Read(make([]byte, 100))
			_ = c.Close()
		}
	}()
	c := Config{Addr: ln.Addr().String(), Node: "n1", Identity: "d"}
	if _, err := Open(t.Context(), c, testLog(t)); !errors.Is(err, errReply) {
		t.Errorf("%v", err)
	}
}

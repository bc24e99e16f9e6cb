package gate

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/scope-registry/scope-registry/client"
	"github.com/scope-registry/scope-registry/internal/gate/commands"
	"github.com/scope-registry/scope-registry/internal/gate/upstream"
)

func TestTransaction(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	u.send("MULTI", "SET "+r.x("a")+" 1", "GET "+r.x("a"), "EXEC", "EXEC", "DISCARD", "MULTI", "SET "+r.x("a")+" 2", "DISCARD", "GET "+r.x("a"), "MULTI", "MULTI", "EXEC")
	u.gets("+OK", "+QUEUED", "+QUEUED", "*2", "+OK", "$1", "1", "-ERR EXEC without MULTI", "-ERR DISCARD without MULTI",
		"+OK", "+QUEUED", "+OK", "$1", "1", "+OK", "-ERR MULTI calls can not be nested", "*0")
	u.send("MULTI", "SET "+r.x("a")+" 9", "RESET", "GET "+r.x("a"), "MULTI", "QUIT")
	u.gets("+OK", "+QUEUED", "+RESET", "$1", "1", "+OK", "+OK")
	u.ends()
}

// What was refused while it was queued has EXEC do nothing.
func TestTransactionIsSpoilt(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct{ command, refusal string }{
		{"SET " + r.o("a") + " 1", "-CROSS_SCOPE "}, {"SET free 1", "-CROSS_SCOPE "}, {"FLUSHALL", "-ERR "}, {"NOSUCH", "-ERR unknown command"},
		{"SUBSCRIBE c", "-ERR "}, {"HELLO 3", "-ERR "}, {"SELECT 1", "-ERR "}, {"EXEC now", "-ERR wrong number"}, {"SET __scope-registry:gate 1", "-ERR "},
	} {
		u := r.user()
		u.send("MULTI", "SET "+r.x("a")+" 1", c.command, "EXEC", "GET "+r.x("a"))
		u.gets("+OK", "+QUEUED")
		if line := u.line(); !strings.HasPrefix(line, c.refusal) {
			t.Errorf("%s got %s", c.command, line)
		}
		u.gets("-EXECABORT Transaction discarded because of previous errors.", "$-1")
	}
	u := r.user()
	u.send("MULTI", "SET "+r.o("a")+" 1", "EXEC")
	u.gets("+OK", "-MISDIRECTED writer is "+r.other, "-EXECABORT Transaction discarded because of previous errors.")
	if got := r.store.did(); slices.ContainsFunc(got, func(s string) bool { return strings.HasPrefix(s, "SET") }) {
		t.Errorf("the store did %q", got)
	}
}

// The gate keeps the keys of a transaction, and not without end.
func TestTransactionIsBounded(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	u.send("MULTI")
	u.gets("+OK")
	key := r.x(strings.Repeat("k", 1<<20))
	for i := range maxQueued / len(key) {
		u.send([]string{"SET " + key + " 1", "GET " + key}[i%2])
		u.gets("+QUEUED")
	}
	u.send("SET "+key+" 1", "EXEC")
	u.gets("-"+errTooLong.Error(), "-EXECABORT Transaction discarded because of previous errors.")
}

// A scope that closes between MULTI and EXEC has EXEC refused, and the store forgets what it queued. An EXEC that was sent
// counts until its reply.
func TestTransactionMeetsAMove(t *testing.T) {
	r := newRig(t, nil)
	to, addr := r.target()
	early, late := r.user(), r.user()
	for _, u := range []*user{early, late} {
		u.send("MULTI", "SET "+r.x("a")+" 1")
		u.gets("+OK", "+QUEUED")
	}
	held := r.hold("EXEC")
	early.send("EXEC")
	<-held.reached
	id := r.move(to)
	r.quiesced()
	late.send("SET "+r.x("b")+" 2", "EXEC", "GET "+r.x("b"))
	late.gets("-QUIESCED migrating to "+addr, "-EXECABORT Transaction discarded because of previous errors.", "$-1")
	late.send("MULTI", "GET "+r.x("a"), "EXEC")
	late.gets("+OK", "+QUEUED", "*1", "$-1")
	r.phase(id, "quiescing")
	close(held.goOn)
	early.gets("*1", "+OK")
	r.phase(id, "done")
}

func TestExecIsRefused(t *testing.T) {
	r := newRig(t, nil)
	to, addr := r.target()
	u, w := r.user(), r.user()
	u.send("MULTI", "SET "+r.x("a")+" 1")
	u.gets("+OK", "+QUEUED")
	held := r.hold("SET " + r.x("w"))
	w.send("SET " + r.x("w") + " 1")
	<-held.reached
	r.move(to)
	r.quiesced()
	u.send("EXEC", "PING")
	u.gets("-QUIESCED migrating to "+addr, "+PONG")
	close(held.goOn)
	w.gets("+OK")
	if got := r.store.did(); !slices.Contains(got, "DISCARD") || slices.Contains(got, "SET "+r.x("a")+" 1") {
		t.Errorf("the store did %q", got)
	}
}

// What waits in the store is released when its scope closes, and what follows it goes on.
func TestParkedIsReleased(t *testing.T) {
	r := newRig(t, nil)
	to, addr := r.target()
	u, served := r.user(), r.user()
	served.send("BLPOP "+r.x("other")+" 0", "PING")
	u.send("BLPOP "+r.x("q")+" 0", "PING")
	u.waits(r, r.x("q"))
	r.user().send("RPUSH " + r.x("other") + " e")
	served.gets("*2", "$"+itoa(len(r.x("other"))), r.x("other"), "$1", "e", "+PONG")
	id := r.move(to)
	u.gets("-QUIESCED migrating to "+addr, "+PONG")
	r.phase(id, "done")
	r.eventually("the node knows", func() error {
		if !errors.Is(r.session.Guard().Owns([]byte(r.x("q"))), client.ErrMisdirected) {
			return errNotYet
		}
		return nil
	})
	u.send("BLPOP " + r.x("q") + " 0")
	u.gets("-MISDIRECTED writer is " + addr)
}

// A client that leaves takes along what waits for it.
func TestParkedClientLeaves(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	u.send("BLPOP " + r.x("q") + " 0")
	u.waits(r, r.x("q"))
	_ = u.nc.Close()
	r.eventually("the private connection is gone", func() error {
		if n := r.gate.pipes.Load(); n > 1 {
			return errNotYet
		}
		return nil
	})
}

func TestSubscribe(t *testing.T) {
	r := newRig(t, nil)
	u, pub := r.user(), r.user()
	u.send("SUBSCRIBE a b", "PING x")
	u.gets("*3", "$9", "subscribe", "$1", "a", ":1", "*3", "$9", "subscribe", "$1", "b", ":2", "*2", "$4", "pong", "$1", "x")
	pub.send("PUBLISH a hello")
	pub.gets(":1")
	u.gets("*3", "$7", "message", "$1", "a", "$5", "hello")
	u.send("UNSUBSCRIBE", "SET free 1", "SET open 1", "SET "+r.x("a")+" 1")
	u.gets("*3", "$11", "unsubscribe", "$1", "a", ":1", "*3", "$11", "unsubscribe", "$1", "b", ":0", "+OK", "+OK", "+OK")
	u.send("HELLO 3")
	u.gets("%1", "$6", "server", "$4", "fake")
	u.send("SUBSCRIBE a", "SET "+r.x("a")+" 2")
	u.gets(">3", "$9", "subscribe", "$1", "a", ":1", "+OK")
	pub.send("PUBLISH a again")
	pub.gets(":1")
	u.gets(">3", "$7", "message", "$1", "a", "$5", "again")
}

// A user without the right to PING, which the gate sends behind each change of subscriptions, is answered as everybody else.
func TestSubscriptionsWithoutPing(t *testing.T) {
	r := newRig(t, nil)
	u, pub := r.user(), r.user()
	const noPing = "-NOPERM User noping has no permissions to run the 'ping' command"
	set := "SET " + r.x("a") + " 1"
	u.send("AUTH noping secret", "PING", "SUBSCRIBE secret", set, "SUBSCRIBE a b", "SUBSCRIBE secret", "SUBSCRIBE c", "PING")
	u.gets("+OK", noPing, "-NOPERM no such channel for you", "+OK", "*3", "$9", "subscribe", "$1", "a", ":1", "*3", "$9", "subscribe", "$1", "b", ":2",
		"-NOPERM no such channel for you", "*3", "$9", "subscribe", "$1", "c", ":3", noPing)
	pub.send("PUBLISH b hello")
	pub.gets(":1")
	u.gets("*3", "$7", "message", "$1", "b", "$5", "hello")
	u.send("UNSUBSCRIBE", set)
	for i, ch := range []string{"a", "b", "c"} {
		u.gets("*3", "$11", "unsubscribe", "$1", ch, ":"+itoa(2-i))
	}
	u.gets("+OK")
}

// A store that is busy refuses SUBSCRIBE and the PING behind it. What follows is a command as any other: a write is acknowledged, and
// does not stay in the count.
func TestSubscribeAtABusyStore(t *testing.T) {
	r := newRig(t, nil)
	to, _ := r.target()
	u := r.user()
	set := "SET " + r.x("a") + " 1"
	u.send("SUBSCRIBE busy", set, "SUBSCRIBE a", "SUBSCRIBE busy b", "UNSUBSCRIBE", set)
	u.gets("-"+busyText, "+OK", "*3", "$9", "subscribe", "$1", "a", ":1", "-"+busyText, "*3", "$11", "unsubscribe", "$1", "a", ":0", "+OK")
	r.phase(r.move(to), "done")
}

// A reply that belongs to no change of subscriptions ends the connection to the store, and is not passed on as part of one.
func TestSubscriptionsGoAstray(t *testing.T) {
	r := newRig(t, nil)
	u := r.user()
	u.send("SUBSCRIBE astray", "SET "+r.x("a")+" 1")
	for _, what := range []string{"SUBSCRIBE", "SET"} {
		if line := u.line(); !strings.HasPrefix(line, "-OUTCOME_UNKNOWN ") {
			t.Errorf("%s is answered %s", what, line)
		}
	}
	u.ends()
}

// In RESP3 no array is a message, whatever it begins with.
func TestArraysAreReplies(t *testing.T) {
	r := newRig(t, nil)
	r.user().send("RPUSH message v w")
	for _, before := range [][]string{{"HELLO 3", "AUTH me secret"}, {"AUTH me secret", "HELLO 3"}} {
		u := r.user()
		u.send(append(before, "SUBSCRIBE ch", "BLPOP message 0", "SET "+r.x("a")+" 1")...)
		for line := u.line(); line != ">3"; line = u.line() {
		}
		u.gets("$9", "subscribe", "$2", "ch", ":1", "*2", "$7", "message", "$1")
		if line := u.line(); line != "v" && line != "w" {
			t.Error(line)
		}
		u.gets("+OK")
	}
}

// The state of a connection is the client's own, though upstream connections are shared.
func TestSession(t *testing.T) {
	r := newRig(t, nil)
	u, v := r.user(), r.user()
	u.send("CLIENT GETNAME", "CLIENT SETNAME one", "CLIENT GETNAME", "CLIENT SETNAME a\x01", "SELECT 0", "SELECT x", "CLIENT SETINFO LIB-NAME x")
	u.gets("$-1", "+OK", "$3", "one", "-ERR Client names cannot contain spaces, newlines or special characters.", "+OK", "-ERR invalid DB index", "+OK")
	u.send("SELECT 1")
	if line := u.line(); !strings.HasPrefix(line, "-ERR the gate serves database 0 only") {
		t.Error(line)
	}
	v.send("HELLO 3 SETNAME two", "CLIENT GETNAME", "GET "+r.x("a"), "RESET", "CLIENT GETNAME", "GET "+r.x("a"))
	v.gets("%4", "$6", "server", "$4", "fake", "$5", "proto", ":3", "$2", "id")
	if line := v.line(); line[0] != ':' || line == ":77" {
		t.Error(line, "is the id")
	}
	v.gets("$7", "modules", "*0", "$3", "two", "_", "+RESET", "$-1", "$-1")
	u.send("HELLO 4", "HELLO x", "HELLO 2 NONSENSE", "HELLO 2 AUTH me wrong", "GET "+r.x("a"))
	u.gets("-NOPROTO unsupported protocol version", "-ERR Protocol version is not an integer or out of range", "-ERR Syntax error in HELLO option 'NONSENSE'", "-WRONGPASS no", "$-1")
	u.send("AUTH me secret", "CLIENT ID", "QUIT")
	u.gets("+OK")
	if line := u.line(); line[0] != ':' {
		t.Error(line)
	}
	u.gets("+OK")
	u.ends()
}

// What CLIENT LIST could not show is refused as by the store: one of Redis 7.2 and later and of Valkey, or an older one, which has no
// CLIENT SETINFO and looks at names beyond a zero byte.
func TestNamesOfClients(t *testing.T) {
	const badName, badLib = "-ERR Client names cannot contain spaces, newlines or special characters.", " cannot contain spaces, newlines or special characters."
	const asked = ":" // the store of the tests answers it so
	newer := newRig(t, nil).user()
	old := newRig(t, func(cfg *Config) {
		cfg.Commands, _ = commands.Check([]commands.Description{{Name: "client", Arity: -2, Subcommands: []commands.Description{{Name: "client|setname", Arity: 3}}}})
	}).user()
	for _, step := range []struct {
		words      []string
		newer, old string
	}{
		{[]string{"SETINFO", "LIB-NAME", "a b"}, "-ERR LIB-NAME" + badLib, asked},
		{[]string{"SETINFO", "lib-ver", "1\n"}, "-ERR lib-ver" + badLib, asked},
		{[]string{"SETINFO", "lib-name", "x\xff"}, "-ERR lib-name" + badLib, asked},
		{[]string{"SETINFO", "lib-name\x00x", "a b"}, "-ERR lib-name" + badLib, asked},
		{[]string{"SETINFO", "lib-name", "a\x00 b"}, "+OK", asked},
		{[]string{"SETINFO", "lib-ver", ""}, "+OK", asked},
		{[]string{"SETINFO", "no\rpe\x00x", "a b"}, "-ERR Unrecognized option 'no pe'", asked},
		{[]string{"SETINFO", "lib-ver"}, "-ERR wrong number of arguments for 'client|setinfo' command", asked},
		{[]string{"SETNAME", "\x00a c"}, "+OK", badName},
		{[]string{"SETNAME", "a c\x00"}, badName, badName},
		{[]string{"SETNAME", "\xff"}, badName, badName},
		{[]string{"SETNAME", ""}, "+OK", "+OK"},
	} {
		for u, want := range map[*user]string{newer: step.newer, old: step.old} {
			words := [][]byte{[]byte("CLIENT")}
			for _, w := range step.words {
				words = append(words, []byte(w))
			}
			if _, err := u.nc.Write(appendCommand(nil, words...)); err != nil {
				t.Fatal(err)
			}
			if got := u.line(); got != want && (want != asked || !strings.HasPrefix(got, asked)) {
				t.Errorf("%q: %s, want %s", step.words, got, want)
			}
		}
	}
}

// A private connection begins with a small buffer for replies. It grows with what comes: many short ones, or one that is long.
func TestPrivateRepliesOfAnyLength(t *testing.T) {
	var first atomic.Int64
	r := newRig(t, func(c *Config) { c.Store = watchedStore{c.Store, &first} })
	u := r.user()
	u.send("AUTH me secret")
	u.gets("+OK")
	if n := first.Load(); n != minRead {
		t.Errorf("the first buffer has %d bytes, want %d", n, minRead)
	}
	long := strings.Repeat("x", 2*keepPipe)
	middle := strings.Repeat("y", minRead-100)
	u.send("SET "+r.x("l")+" "+long, "SET "+r.x("m")+" "+middle)
	u.gets("+OK", "+OK")
	var asked, want []string
	for i := range 300 {
		key, text := r.x("m"), middle
		if i%100 == 50 {
			key, text = r.x("l"), long
		}
		asked = append(asked, "GET "+key, "PING")
		want = append(want, "$"+itoa(len(text)), text, "+PONG")
	}
	u.send(asked...)
	u.gets(want...)
}

// watchedStore notes how long the buffer is into which the last connection was first read.
type watchedStore struct {
	Store
	first *atomic.Int64
}

func (s watchedStore) Dial(ctx context.Context) (*upstream.Conn, error) {
	up, err := s.Store.Dial(ctx)
	if err == nil {
		s.first.Store(0)
		up.Conn = watchedConn{up.Conn, s.first}
	}
	return up, err
}

type watchedConn struct {
	net.Conn
	first *atomic.Int64
}

func (c watchedConn) Read(b []byte) (int, error) {
	c.first.CompareAndSwap(0, int64(len(b)))
	return c.Conn.Read(b)
}

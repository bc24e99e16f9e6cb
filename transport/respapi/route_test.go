package respapi

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
)

// discarding takes every answer.
type discarding struct{ net.Conn }

func (discarding) Write(p []byte) (int, error)      { return len(p), nil }
func (discarding) SetWriteDeadline(time.Time) error { return nil } // that of a pipe allocates

func routing(t testing.TB) *conn {
	reg := newMemory(t)
	reg.declared(t)
	reg.apply(t, &fsm.Declare{Prefix: []byte("moving:"), Writer: "a"},
		&fsm.StartMove{Id: "m1", Prefix: []byte("moving:"), From: "a", To: "b", Mode: "assisted"})
	near, _ := net.Pipe()
	return newConn(New(Config{Registry: reg}), discarding{near}, 1)
}

func arguments(words ...string) [][]byte {
	var out [][]byte
	for _, w := range words {
		out = append(out, []byte(w))
	}
	return out
}

func TestRouteAllocations(t *testing.T) {
	c := routing(t)
	for name, tc := range map[string]struct {
		args [][]byte
		most float64
	}{
		"owned":     {arguments("SCOPE", "ROUTE", "app:1", "AS", "a"), 0},
		"lower":     {arguments("scope", "route", "app:1", "as", "a"), 0},
		"unknown":   {arguments("SCOPE", "ROUTE", "x", "AS", "a"), 0},
		"elsewhere": {arguments("SCOPE", "ROUTE", "app:1", "AS", "b"), 1},    // its text
		"closed":    {arguments("SCOPE", "ROUTE", "moving:1", "AS", "b"), 1}, // its text
		"a map":     {arguments("SCOPE", "ROUTE", "app:1"), 0},
	} {
		got := testing.AllocsPerRun(200, func() {
			c.execute(c.caller(), tc.args)
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
		})
		if got > tc.most {
			t.Errorf("%s: %v allocations, want at most %v", name, got, tc.most)
		}
	}
}

// recording keeps every answer.
type recording struct {
	discarding
	text *bytes.Buffer
}

func (r recording) Write(p []byte) (int, error) { return r.text.Write(p) }

// Since a restore the cluster holds: a scope takes no writes from anyone, and the
// answer names its owner.
func TestRouteOnHold(t *testing.T) {
	reg := newMemory(t)
	reg.declared(t)
	reg.apply(t, &fsm.InitCluster{Id: "c1"})
	st, _, err := reg.State().Restored(fsm.Restoration{Incarnation: 2, Tag: "t2", Index: reg.Index + 1})
	if err != nil {
		t.Fatal(err)
	}
	var backup bytes.Buffer
	if err := errors.Join(st.Encode(&backup), reg.Restore(io.NopCloser(&backup))); err != nil {
		t.Fatal(err)
	}
	near, _ := net.Pipe()
	answers := recording{discarding{near}, &bytes.Buffer{}}
	c := newConn(New(Config{Registry: reg}), answers, 1)
	for _, args := range [][][]byte{arguments("SCOPE", "ROUTE", "app:1", "AS", "a"), arguments("SCOPE", "ROUTE", "app:1"), arguments("SCOPE", "ROUTE", "x")} {
		c.execute(c.caller(), args)
	}
	if err := c.flush(); err != nil {
		t.Fatal(err)
	}
	want := "-QUIESCED migrating to 10.0.0.1:6004\r\n" +
		"*14\r\n$6\r\nprefix\r\n$4\r\napp:\r\n$5\r\nowner\r\n$1\r\na\r\n$4\r\naddr\r\n$13\r\n10.0.0.1:6004\r\n$5\r\nepoch\r\n:1\r\n" +
		"$5\r\nstate\r\n$4\r\nheld\r\n$6\r\ntarget\r\n$-1\r\n$5\r\nindex\r\n:6\r\n" +
		"*14\r\n$6\r\nprefix\r\n$-1\r\n$5\r\nowner\r\n$-1\r\n$4\r\naddr\r\n$-1\r\n$5\r\nepoch\r\n$-1\r\n$5\r\nstate\r\n$7\r\nunknown\r\n$6\r\ntarget\r\n$-1\r\n" +
		"$5\r\nindex\r\n:6\r\n"
	if got := answers.text.String(); got != want {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// The words of the last command are remembered: others, in other letters or numbers, are still themselves.
func TestCommandsInTurn(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	c := b.dial()
	for range 2 {
		for _, step := range [][2]string{
			{"SCOPE ROUTE app:1 AS a", "+OWNED\r\n"},
			{"SCOPE ROUTE app:1 AS a", "+OWNED\r\n"},
			{"scope route app:1 AS b", "-MISDIRECTED writer is 10.0.0.1:6004\r\n"},
			{"SCOPE ROUTE", "-ERR wrong number of arguments for 'scope|route' command; use SCOPE ROUTE <key> [AS <node>] [LINEARIZABLE]\r\n"},
			{"SCOPE NODE SET a 10.0.0.1:6004", "+OK\r\n"},
			{"SCOPE NODE DEL d", "-NOT_FOUND node \"d\" is not declared\r\n"},
			{"COMMAND", ""},
			{"COMMAND COUNT", ":" + strconv.Itoa(len(b.srv.top())) + "\r\n"},
			{"PING", "+PONG\r\n"},
			{"SCOPE", "-ERR wrong number of arguments for 'scope' command\r\n"},
			{"PINGS", ""},
		} {
			if got := c.ask(step[0]); step[1] != "" && got != step[1] {
				t.Errorf("%s: %q, want %q", step[0], got, step[1])
			}
		}
	}
	c.send("PING\r\nPING\r\nECHO x\r\nPING\r\nCLIENT ID\r\n") // many at once are counted apart
	for range 5 {
		c.next()
	}
	for name, want := range map[string]float64{"SCOPE ROUTE": 6, "PING": 5, "ECHO": 1, "CLIENT ID": 1, "COMMAND COUNT": 2, "COMMAND": 2} {
		if got := b.metric("scope_registry_resp_commands_total", name, "ok"); got != want {
			t.Errorf("%s was counted %v times, want %v", name, got, want)
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	for name, args := range map[string][][]byte{
		"owned":     arguments("SCOPE", "ROUTE", "app:1", "AS", "a"),
		"elsewhere": arguments("SCOPE", "ROUTE", "app:1", "AS", "b"),
		"map":       arguments("SCOPE", "ROUTE", "app:1"),
	} {
		b.Run(name, func(b *testing.B) {
			c := routing(b)
			b.ReportAllocs()
			for b.Loop() {
				c.execute(c.caller(), args)
			}
		})
	}
}

// A connection as a whole, over loopback, with 64 commands on their way at once.
func BenchmarkPipeline(b *testing.B) {
	const pipeline = 64
	s := onTCP(b)
	s.reg.declared(b)
	c := s.dial()
	batch := ""
	for range pipeline {
		batch += "*5\r\n$5\r\nSCOPE\r\n$5\r\nROUTE\r\n$5\r\napp:1\r\n$2\r\nAS\r\n$1\r\na\r\n"
	}
	answers := make([]byte, pipeline*len("+OWNED\r\n"))
	b.ReportAllocs()
	for b.Loop() {
		c.send(batch)
		if _, err := io.ReadFull(c.r, answers); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*pipeline)/b.Elapsed().Seconds(), "commands/s")
}

// reading has all that will ever come.
type reading struct {
	discarding
	text *strings.Reader
}

func (r reading) Read(p []byte) (int, error) { return r.text.Read(p) }

// The keys behind a SCOPE ROUTE are looked up with it.
func TestKeysAreLookedUpAhead(t *testing.T) {
	c := routing(t)
	const route = "*5\r\n$5\r\nSCOPE\r\n$5\r\nROUTE\r\n$5\r\napp:1\r\n$2\r\nAS\r\n$1\r\na\r\n"
	c.nc = reading{discarding{c.nc}, strings.NewReader(strings.Repeat(route, 3))}
	for left := range 3 {
		args, err := c.r.Next()
		if err != nil {
			t.Fatal(err)
		}
		c.execute(c.caller(), args)
		fresh := 0
		c.r.Ahead(9, func([][]byte) { fresh++ })
		if fresh > 0 {
			t.Errorf("behind command %d of 3 there were %d that nobody had looked at", left+1, fresh)
		}
	}
}

// The commands of a pipeline are answered as each is alone, also where one of them changes who owns the keys behind it.
func TestPipelineOfRoutes(t *testing.T) {
	b := onTCP(t)
	b.reg.declared(t)
	alone := b.dial()
	var pipeline strings.Builder
	var want []string
	add := func(command, answer string) {
		words := strings.Fields(command)
		fmt.Fprintf(&pipeline, "*%d\r\n", len(words))
		for _, w := range words {
			fmt.Fprintf(&pipeline, "$%d\r\n%s\r\n", len(w), w)
		}
		want = append(want, answer)
	}
	for range 30 {
		for _, c := range []string{"SCOPE ROUTE app:1 AS a", "SCOPE ROUTE app:2 AS b", "SCOPE ROUTE x AS a", "SCOPE ROUTE app:3", "SCOPE LIST", "SCOPE ROUTE app:4 AS"} {
			add(c, alone.ask(c))
		}
	}
	for range 10 {
		add("SCOPE ROUTE late:1 AS b", "+UNKNOWN\r\n")
	}
	add("SCOPE DECLARE late: WRITER b", "")
	for range 10 {
		add("SCOPE ROUTE late:1 AS b", "+OWNED\r\n")
	}
	c := b.dial()
	c.send(pipeline.String())
	for i, w := range want {
		if got := c.next(); got != w && w != "" {
			t.Fatalf("answer %d is %q, want %q", i, got, w)
		}
	}
}

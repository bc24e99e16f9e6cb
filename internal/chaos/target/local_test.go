package target

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/scope-registry/scope-registry/internal/load"
	"github.com/scope-registry/scope-registry/internal/process"
)

// limit bounds every wait of these tests.
const limit = 30 * time.Second

// program prints what it was called with, and ends after SIGTERM, or by itself when there is a file end in its data directory.
const program = `#!/bin/sh
trap 'exit 0' TERM
echo "begun $*"
while [ $# -gt 0 ]; do
	case "$1" in --data|--data-dir) dir="$2" ;; esac
	shift
done
mkdir -p "$dir"
while [ ! -e "$dir/end" ]; do sleep 0.01; done
`

// local is three servers and two nodes that run, none of which does anything.
func local(t *testing.T) *Local {
	t.Helper()
	dir := t.TempDir()
	script := filepath.Join(dir, "program")
	if err := os.WriteFile(script, []byte(program), 0o700); err != nil {
		t.Fatal(err)
	}
	l := NewLocal(dir, load.Programs{Registry: script, Store: script}, 2, "fast")
	t.Cleanup(func() {
		if err := l.Down(context.Background()); err != nil {
			t.Error(err)
		}
	})
	if err := l.Up(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range slices.Concat(l.Servers(), l.Nodes()) {
		begun(t, l, id)
	}
	return l
}

// begun waits until a program has printed what it was called with since its last start and has its data directory, and returns
// the arguments.
func begun(t *testing.T, l *Local, id string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for {
		m, err := l.machine(id)
		if err != nil {
			t.Fatal(err)
		}
		_, made := os.Stat(m.data)
		if said, err := l.Log(ctx, id); err == nil && made == nil && strings.HasSuffix(said, "\n") {
			return said
		}
		if process.Sleep(ctx, time.Millisecond) != nil {
			t.Fatalf("%s did not begin within %v", id, limit)
		}
	}
}

// argument is the value of a flag.
func argument(said, flag string) string {
	fields := strings.Fields(said)
	return fields[slices.Index(fields, flag)+1]
}

// state is what Inspect says of a machine.
func state(t *testing.T, l *Local, id string) string {
	t.Helper()
	m, err := l.Inspect(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if (m.State == "exited") != (m.PID == 0) || m.Node != slices.Contains(l.Nodes(), id) {
		t.Errorf("%s is %+v", id, m)
	}
	return m.State
}

// TestEverybodyDialsCables: no machine is told the address at which another one listens.
func TestEverybodyDialsCables(t *testing.T) {
	l := local(t)
	var cluster []string
	for _, id := range l.Servers() {
		m, err := l.Inspect(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		cluster = append(cluster, id+"="+m.Peer)
		if said := begun(t, l, id); argument(said, "--peer") == m.Peer || "http://"+argument(said, "--http") != l.URL(id) || argument(said, "--id") != id {
			t.Errorf("%s is at %s for others and at %s for clients, and was called with %s", id, m.Peer, l.URL(id), said)
		}
	}
	for _, id := range l.Servers() {
		if got := argument(begun(t, l, id), "--cluster"); got != strings.Join(cluster, ",") {
			t.Errorf("%s has the list %s, want %v", id, got, cluster)
		}
	}
	for _, id := range l.Nodes() {
		said := begun(t, l, id)
		if n := len(strings.Split(argument(said, "--endpoints"), ",")); n != len(l.Servers()) || "http://"+argument(said, "--listen") != l.URL(id) {
			t.Errorf("%s was called with %s", id, said)
		}
		for _, server := range l.Servers() {
			if strings.Contains(said, l.URL(server)) {
				t.Errorf("%s dials %s without a cable", id, server)
			}
		}
	}
}

func TestLocalRunsAndEnds(t *testing.T) {
	l := local(t)
	for _, id := range []string{"s2", "d1"} {
		for name, end := range map[string]func(context.Context, string) error{"kill": l.Kill, "stop": l.Stop} {
			if got := state(t, l, id); got != "running" {
				t.Errorf("%s is %s before %s", id, got, name)
			}
			if err := end(t.Context(), id); err != nil || state(t, l, id) != "exited" {
				t.Errorf("%s of %s: %v, %s", name, id, err, state(t, l, id))
			}
			if err := l.Start(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			if said := begun(t, l, id); strings.Count(said, "begun") != 1 {
				t.Errorf("since its last start %s has logged %q", id, said)
			}
		}
		if err := l.Pause(t.Context(), id); err != nil || state(t, l, id) != "paused" {
			t.Errorf("pause of %s: %v, %s", id, err, state(t, l, id))
		}
		if err := l.Resume(t.Context(), id); err != nil || state(t, l, id) != "running" {
			t.Errorf("resume of %s: %v, %s", id, err, state(t, l, id))
		}
	}
	dir := t.TempDir()
	if err := l.Logs(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "d1.log")); err != nil || strings.Count(string(data), "begun") != 3 {
		t.Errorf("d1.log is %q, %v", data, err)
	}
	if err := l.Down(t.Context()); err != nil {
		t.Error(err)
	}
	for _, id := range []string{"s1", "x9"} {
		if err := l.Kill(t.Context(), id); err == nil || !strings.Contains(err.Error(), id) || l.URL(id) != "" {
			t.Errorf("killing %s, which is not there: %v", id, err)
		}
	}
}

// hello is what a server says first to another one.
func hello(name string) []byte {
	rest := append(binary.BigEndian.AppendUint16(nil, uint16(len(name))), name...)
	return append(binary.BigEndian.AppendUint16([]byte("scrg\x00\x01"), uint16(len(rest))), rest...)
}

// TestCut: of two that dial a server, the one that is cut off gets there when the link is mended, although it was first.
func TestCut(t *testing.T) {
	l := local(t)
	s2, err := l.machine("s2")
	if err != nil {
		t.Fatal(err)
	}
	endpoint := func(node string) string { // where a node dials s2
		return strings.TrimPrefix(strings.Split(argument(begun(t, l, node), "--endpoints"), ",")[1], "http://")
	}
	for _, c := range []struct {
		cut, other string
		at         string // where s2 listens
		dials      func(id string) (addr string, says []byte)
	}{
		{"s1", "s3", s2.peer, func(id string) (string, []byte) { return s2.cable.Addr(), hello(id) }},
		{"d1", "d2", strings.TrimPrefix(s2.url, "http://"), func(id string) (string, []byte) { return endpoint(id), []byte(id) }},
	} {
		ln, err := net.Listen("tcp", c.at)
		if err != nil {
			t.Fatal(err)
		}
		before, err := l.Inspect(t.Context(), c.cut)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Cut(t.Context(), c.cut); err != nil {
			t.Fatal(err)
		}
		if m, err := l.Inspect(t.Context(), c.cut); err != nil || m.Peer != "" || before.Peer == "" || m.State != "running" {
			t.Errorf("%s is %+v while it is cut off, and was %+v (%v)", c.cut, m, before, err)
		}
		for _, id := range []string{c.cut, c.other} {
			addr, says := c.dials(id)
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				_, err = conn.Write(says)
			}
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.Close() })
		}
		if got := arrives(t, ln); !strings.HasSuffix(got, c.other) {
			t.Errorf("%q arrived while %s was cut off", got, c.cut)
		}
		if err := l.Mend(t.Context(), c.cut); err != nil {
			t.Fatal(err)
		}
		if got := arrives(t, ln); !strings.HasSuffix(got, c.cut) {
			t.Errorf("%q arrived when %s was mended", got, c.cut)
		}
		if m, err := l.Inspect(t.Context(), c.cut); err != nil || m != before {
			t.Errorf("%s is %+v afterwards, and was %+v (%v)", c.cut, m, before, err)
		}
		_ = ln.Close()
	}
	if err := errors.Join(l.Cut(t.Context(), "x9"), l.Mend(t.Context(), "x9")); err == nil || strings.Count(err.Error(), `"x9"`) != 2 {
		t.Errorf("cutting off what is not there: %v", err)
	}
}

// arrives is what the next connection brings, as far as it says its name.
func arrives(t *testing.T, ln net.Listener) string {
	t.Helper()
	conn, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	buf := make([]byte, 2)
	if _, err := io.ReadFull(conn, buf); err != nil {
		t.Fatal(err)
	}
	if string(buf) != "sc" {
		return string(buf)
	}
	buf = make([]byte, len(hello("s1"))-2)
	if _, err := io.ReadFull(conn, buf); err != nil {
		t.Fatal(err)
	}
	return string(buf)
}

func TestLocalDisk(t *testing.T) {
	l := local(t)
	var at string
	look := func(dir string) error { at = dir; return nil }
	if err := l.Disk(t.Context(), "s1", look); err == nil || !strings.Contains(err.Error(), "s1 runs") || at != "" {
		t.Errorf("the disk of a server that runs: %v", err)
	}
	if err := l.Kill(t.Context(), "s1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Disk(t.Context(), "s1", look); err != nil || at != filepath.Join(l.dir, "s1") {
		t.Errorf("the disk of a server that does not: %v, %s", err, at)
	}
	undo, err := l.FailPoint("s2", load.Slow, "70ms")
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(l.dir, "s2", string(load.Slow))
	if data, err := os.ReadFile(name); err != nil || string(data) != "70ms" {
		t.Errorf("%s says %q, %v", name, data, err)
	}
	if err := undo(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(name); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s after the undo: %v", name, err)
	}
}

// endsByItself has a program end.
func endsByItself(t *testing.T, l *Local, id string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, id, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAServerComesAndGoes(t *testing.T) {
	l := local(t)
	peer, err := l.Add(t.Context(), "x1")
	if err != nil {
		t.Fatal(err)
	}
	if said := begun(t, l, "x1"); !strings.HasSuffix(argument(said, "--cluster"), ",x1="+peer) || argument(said, "--peer") == peer {
		t.Errorf("x1, which is reached at %s, was called with %s", peer, said)
	}
	if got := l.Servers(); !slices.Equal(got, []string{"s1", "s2", "s3", "x1"}) {
		t.Errorf("the servers are %v", got)
	}
	endsByItself(t, l, "x1")
	if err := l.Remove("x1"); err != nil {
		t.Error(err)
	}
	if got := l.Servers(); !slices.Equal(got, []string{"s1", "s2", "s3"}) {
		t.Errorf("the servers are %v afterwards", got)
	}
	if _, err := net.Dial("tcp", peer); err == nil {
		t.Error("the cable to x1 is still there")
	}
	endsByItself(t, l, "s3")
	if err := l.Ended("s3"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Remove(filepath.Join(l.dir, "s3", "end")), l.Start(t.Context(), "s3")); err != nil || state(t, l, "s3") != "running" {
		t.Errorf("starting what has ended by itself: %v", err)
	}
	begun(t, l, "s3") // before that it ends by SIGTERM itself
}

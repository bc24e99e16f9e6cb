package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/scope-registry/scope-registry/fsm"
)

// up starts a server of the script again.
func (b *bench) up(ts *testscript.TestScript, args []string) {
	if len(args) != 1 || b.cfgs[args[0]].ID == "" || b.servers[args[0]] != nil {
		ts.Fatalf("usage: up ID, of a server that was ended")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	s, err := startServer(ctx, b.cfgs[args[0]])
	ts.Check(err)
	b.servers[args[0]] = s
	b.settle(ts, nil)
	ts.Setenv(strings.ToUpper(args[0]), "http://"+s.http)
}

// changes makes so many log entries, and waits until every server has them.
func (b *bench) changes(ts *testscript.TestScript, args []string) {
	n := 0
	if len(args) == 1 {
		n, _ = strconv.Atoi(args[0])
	}
	if n <= 0 || len(b.servers) == 0 {
		ts.Fatalf("usage: changes N, while servers run")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := uint64(0)
	for i := range n {
		result, err := b.any().reg.Propose(ctx, fsm.Envelope{Command: &fsm.SetNode{Id: "a", Addr: fmt.Sprintf("10.0.0.1:%d", 2000+i)}})
		ts.Check(err)
		last = result.GetIndex()
	}
	for _, s := range b.servers {
		ts.Check(s.reg.WaitIndex(ctx, last))
	}
}

func (b *bench) copydir(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: copydir FROM TO")
	}
	ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
}

// edit is what a disk does that gives back other bytes than were written.
func (b *bench) edit(ts *testscript.TestScript, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	was, now := []byte(args[1]), []byte(args[2])
	if !bytes.Contains(data, was) {
		ts.Fatalf("%q is not in %s", was, args[0])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.ReplaceAll(data, was, now), 0o600))
}

// cut is what a disk does that lost the end of a file.
func (b *bench) cut(ts *testscript.TestScript, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: cut FILE PAGES")
	}
	pages, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), int64(pages*os.Getpagesize())))
}

// spoil changes the middle byte of the newest snapshots of a data directory.
func (b *bench) spoil(ts *testscript.TestScript, args []string) {
	n := 0
	if len(args) == 2 {
		n, _ = strconv.Atoi(args[1])
	}
	if n <= 0 {
		ts.Fatalf("usage: spoil DIR N")
	}
	states, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), "snapshots", "*", "state.bin"))
	ts.Check(err)
	if len(states) < n {
		ts.Fatalf("%s has %d snapshots", args[0], len(states))
	}
	written := func(path string) int64 {
		info, err := os.Stat(path)
		ts.Check(err)
		return info.ModTime().UnixNano()
	}
	slices.SortFunc(states, func(a, b string) int { return cmp.Compare(written(b), written(a)) })
	for _, path := range states[:n] {
		data, err := os.ReadFile(path)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.WriteFile(path, data, 0o600))
	}
}

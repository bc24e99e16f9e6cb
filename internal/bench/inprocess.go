package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/scope-registry/scope-registry/fsm"
	"github.com/scope-registry/scope-registry/scope"
)

// inProcess measures, in this process, what a server does with the state of the backup, and what that takes of the heap.
func (m *crowd) inProcess(context.Context) error {
	before := heap()
	began := time.Now()
	s, err := m.load()
	if err != nil {
		return err
	}
	m.took("load of it into a state, checked", began)
	m.perScope("heap of the whole state, loaded", heap()-before)
	began = time.Now()
	if err := s.Check(); err != nil {
		return err
	}
	m.took("… of which the check of its invariants", began)
	began = time.Now()
	s.Hash()
	m.took("hash of the state", began)
	began = time.Now()
	if err := m.save(s); err != nil {
		return err
	}
	m.took("write of a snapshot, synced", began)
	return m.tables(s)
}

func (m *crowd) load() (fsm.State, error) {
	f, err := os.Open(m.backupFile())
	if err != nil {
		return fsm.State{}, err
	}
	s, _, err := fsm.LoadBackup(f)
	return s, errors.Join(err, f.Close())
}

// save writes a snapshot as raft's store does, but for the small files beside it.
func (m *crowd) save(s fsm.State) error {
	f, err := os.Create(filepath.Join(m.dir, "snapshot"))
	if err != nil {
		return err
	}
	buffered := bufio.NewWriter(f)
	return errors.Join(s.Encode(buffered), buffered.Flush(), f.Sync(), f.Close())
}

// tables measures the ownership table alone: once as a snapshot's load builds it, once as it is after all were declared
// in a random order. Counted are its pages, the records and the bytes of their prefixes; the node ids are shared.
func (m *crowd) tables(s fsm.State) error {
	own := func(c scope.Scope) scope.Scope {
		c.Prefix = scope.Prefix(c.Prefix.Bytes()) // a copy, as that of the state is not counted
		return c
	}
	before := heap()
	var b scope.TableBuilder
	for c := range s.Scopes().Scopes() {
		if _, err := b.Add(own(*c)); err != nil {
			return err
		}
	}
	loaded := b.Table()
	b = scope.TableBuilder{}
	m.perScope("**heap of the ownership table with its records**, loaded (target: 200 B)", heap()-before)
	all := make([]*scope.Scope, 0, loaded.Len())
	for c := range loaded.Scopes() {
		all = append(all, c)
	}
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	before = heap()
	var grown scope.Table
	for _, c := range all {
		var err error
		if grown, err = grown.With(own(*c)); err != nil {
			return err
		}
	}
	m.perScope("… declared one by one in a random order", heap()-before)
	runtime.KeepAlive(s)
	runtime.KeepAlive(loaded)
	runtime.KeepAlive(grown)
	runtime.KeepAlive(all)
	return nil
}

// heap is what is in use after a collection, in bytes.
func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first has found to be finalized
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

func (m *crowd) perScope(what string, bytes uint64) {
	m.r.row(what, fmt.Sprintf("%d B a scope", bytes/uint64(m.n)))
}

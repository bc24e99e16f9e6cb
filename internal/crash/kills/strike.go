package main

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"time"

	"github.com/scope-registry/scope-registry/internal/crash"
	"github.com/scope-registry/scope-registry/internal/process"
)

const (
	// killSpread is the longest a kill comes after a mutation was acknowledged.
	killSpread = 250 * time.Millisecond
	// startSpread is the longest a kill comes after a start that it is to hit in the middle: a start takes some 200 ms.
	startSpread = 200 * time.Millisecond
	// shortDown and longDown are how long a server stays away at most. In a long one the others write more entries than
	// they keep, so that it is sent a snapshot.
	shortDown, longDown = 200 * time.Millisecond, 3 * time.Second
	// snapshotWait bounds the wait for a server to write a snapshot; it does so several times a second.
	snapshotWait = 2 * time.Second
	// readyTime bounds a start that nobody ends.
	readyTime = 30 * time.Second
	// readyPoll is the pause between two questions whether a server is ready.
	readyPoll = 5 * time.Millisecond
)

// strike is servers that are killed at one moment, and started again.
type strike struct {
	wait time.Duration // after a mutation was acknowledged
	hits []hit
}

// hit is what becomes of one server.
type hit struct {
	server   int
	snapshot bool          // it is killed in the middle of a snapshot
	down     time.Duration // until it is started again
	again    time.Duration // after which it is killed once more, and started at once; 0 is not
}

// draw draws a strike of at most so many kills.
func draw(rnd *rand.Rand, kills int) strike {
	s := strike{wait: time.Duration(rnd.Int64N(int64(killSpread)))}
	victims := 1
	switch dice := rnd.IntN(10); {
	case dice == 0:
		victims = 3
	case dice < 4:
		victims = 2
	}
	for _, server := range rnd.Perm(crash.Size)[:min(victims, kills)] {
		h := hit{server: server, snapshot: victims == 1 && rnd.IntN(3) == 0}
		switch rnd.IntN(10) {
		case 0:
			h.down = time.Duration(rnd.Int64N(int64(longDown)))
		case 1, 2, 3:
			h.down = time.Duration(rnd.Int64N(int64(shortDown)))
		}
		if rnd.IntN(4) == 0 {
			h.again = 1 + time.Duration(rnd.Int64N(int64(startSpread)))
		}
		s.hits = append(s.hits, h)
	}
	for i, spare := 0, kills-len(s.hits); i < len(s.hits); i++ {
		if s.hits[i].again > 0 {
			if spare--; spare < 0 {
				s.hits[i].again = 0
			}
		}
	}
	return s
}

// tally is what was done.
type tally struct {
	kills, restarts       int
	strikes               [crash.Size + 1]int // by how many servers died at once
	starting, snapshotted int                 // kills of a server that was not ready yet; that left a half-written snapshot
	installed             int                 // snapshots that a server got from another one
	ready                 []time.Duration     // of the starts that nobody ended
}

// starts has every server become ready, or be killed before.
type starts struct {
	l     *load
	mu    sync.Mutex // guards the rest
	tally tally
	ends  map[string]func() bool // gives up on a start; false if the server was ready
	all   sync.WaitGroup
}

// start starts a server and follows it until it is ready.
func (s *starts) start(ctx context.Context, id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.l.c.Start(id); err != nil {
		return err
	}
	s.tally.restarts++
	following, cancel := context.WithTimeout(ctx, readyTime)
	ready := make(chan struct{})
	s.ends[id] = func() bool {
		cancel()
		select {
		case <-ready:
			return false
		default:
			return true
		}
	}
	began := time.Now()
	s.all.Go(func() {
		defer cancel()
		if s.follow(following, ctx, id) {
			close(ready)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.tally.ready = append(s.tally.ready, time.Since(began))
		}
	})
	return nil
}

// follow returns true when the server is ready, false when it was killed.
func (s *starts) follow(ctx, whole context.Context, id string) bool {
	for {
		_, err := s.l.c.Get(ctx, id, "/readyz", nil)
		if err == nil {
			return true
		}
		if s.l.backwards(err) {
			return false
		}
		if err := s.l.c.Program(id).Crashed(); err != nil {
			s.l.find(ruleClean, "%v", err)
			return false
		}
		if process.Sleep(ctx, readyPoll) != nil {
			if errors.Is(ctx.Err(), context.DeadlineExceeded) && whole.Err() == nil {
				s.l.find(ruleReady, "%s was not ready %v after its start: %v", id, readyTime, err)
			}
			return false
		}
	}
}

// kill kills a server.
func (s *starts) kill(id string) {
	s.mu.Lock()
	starting := s.ends[id] != nil && s.ends[id]()
	s.mu.Unlock()
	if err := s.l.c.Kill(id); err != nil {
		s.l.find(ruleClean, "%v", err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally.kills++
	if starting {
		s.tally.starting++
	}
	if s.writing(id) {
		s.tally.snapshotted++
	}
}

// writing says whether a server has a snapshot that is not complete.
func (s *starts) writing(id string) bool {
	half, err := filepath.Glob(filepath.Join(s.l.c.DataDir(id), "snapshots", "*.tmp"))
	return err == nil && len(half) > 0
}

// strike carries one out.
func (s *starts) strike(ctx context.Context, what strike) error {
	if err := s.l.wait(ctx); err != nil {
		return err
	}
	if err := process.Sleep(ctx, what.wait); err != nil {
		return err
	}
	errs := make([]error, len(what.hits))
	var all sync.WaitGroup
	for i, h := range what.hits {
		all.Go(func() { errs[i] = s.hit(ctx, h) })
	}
	all.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tally.strikes[len(what.hits)]++
	return errors.Join(errs...)
}

func (s *starts) hit(ctx context.Context, h hit) error {
	id := s.l.c.IDs()[h.server]
	if h.snapshot {
		until, cancel := context.WithTimeout(ctx, snapshotWait)
		defer cancel()
		for !s.writing(id) && process.Sleep(until, time.Millisecond) == nil {
		}
	}
	s.kill(id)
	if err := errors.Join(process.Sleep(ctx, h.down), s.start(ctx, id)); err != nil || h.again == 0 {
		return err
	}
	if err := process.Sleep(ctx, h.again); err != nil {
		return err
	}
	s.kill(id)
	return s.start(ctx, id)
}

// wait returns when every server that was started is ready, or known not to be.
func (s *starts) wait() { s.all.Wait() }
